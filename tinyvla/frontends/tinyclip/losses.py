"""Losses of TinyCLIP: contrastive, and mimicking of a teacher's affinities (arXiv 2309.12314, 3.1)."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPModel

from .masks import MaskedClip
from .model import ShapedClip, embed_ids, embed_pixels

MAX_SCALE = 100.0  # of the logits, as in CLIP


class Pairs(NamedTuple):
    """Embeddings of B images and their B captions by one model.

    image, text: (B, D) unit vectors.
    scale: scalar, inverse of the temperature.
    """

    image: Tensor
    text: Tensor
    scale: Tensor

    @property
    def logits(self) -> Tensor:
        """Logits (B, B); row i holds the fit of image i to every caption."""
        return self.scale * self.image @ self.text.T


def contrastive_loss(student: Pairs) -> Tensor:
    """CLIP's loss: mean of the classification of captions per image and of images per caption, within the batch."""
    logits = student.logits
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def affinity_loss(student: Pairs, teacher: Pairs) -> Tensor:
    """Affinity mimicking, equations 1 to 3: cross-entropy of the student's affinities with the teacher's.

    An affinity is the distribution of an image over the captions of the batch (softmax of a row, image to text), or of
    a caption over the images (of a column, text to image). The loss is the mean of both directions. The models may
    differ in width.
    """
    logits, target = student.logits, teacher.logits.detach()
    image_to_text = F.cross_entropy(logits, target.softmax(dim=1))
    text_to_image = F.cross_entropy(logits.T, target.T.softmax(dim=1))
    return (image_to_text + text_to_image) / 2


def distillation_loss(student: Pairs, teacher: Pairs | None, weight: float) -> tuple[Tensor, dict[str, float]]:
    """`weight` times affinity mimicking plus (1 - `weight`) times contrastive; without a teacher contrastive alone.

    Returns the loss and its terms by name.
    """
    contrast = contrastive_loss(student)
    if teacher is None or weight == 0:
        return contrast, {"contrastive": contrast.item()}
    affinity = affinity_loss(student, teacher)
    loss = weight * affinity + (1 - weight) * contrast
    return loss, {"contrastive": contrast.item(), "affinity": affinity.item()}


class TinyClipLoss(nn.Module):
    """Loss of a student on a batch. The teacher is not a part of its parameters or state."""

    def __init__(self, student: ShapedClip | MaskedClip, teacher: CLIPModel | None, affinity: float):
        super().__init__()
        self.student, self.affinity, self.progress = student, affinity, 0.0
        self._teacher = [teacher.eval().requires_grad_(False)] if teacher else []

    @property
    def masked(self) -> MaskedClip | None:
        return self.student if isinstance(self.student, MaskedClip) else None

    @property
    def clip(self) -> ShapedClip:
        return self.student.clip if isinstance(self.student, MaskedClip) else self.student

    def forward(self, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, float]]:
        """Loss and its terms; batch: `pixels` (B, 3, S, S), `ids` (B, L), and `progress` of the masks, from 0 to 1."""
        self.progress = batch["progress"]
        if self.masked:
            if self.progress >= 1 and self.masked.is_learning:
                self.masked.settle()
            self.masked.draw()
        teacher = None
        if self._teacher and self.affinity > 0:
            self._teacher[0].to(batch["pixels"].device)
            with torch.no_grad():
                teacher = _pairs(self._teacher[0], batch)
        loss, terms = distillation_loss(_pairs(self.clip, batch), teacher, self.affinity)
        if self.masked and self.masked.is_learning:
            # The target is reached at 3/4 of the steps; the masks converge in the rest.
            loss = loss + self.masked.sparsity_loss(min(1.0, self.progress / 0.75))
            terms["expected_share"] = self.masked.expected_share().item()
        return loss, terms

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Context in which masks are 0 or 1, as if the training ended now."""
        training = self.training
        self.eval()
        if self.masked:
            self.masked.draw()
        try:
            yield
        finally:
            self.train(training)

    def finished(self) -> ShapedClip:
        """Model to save: without the masked parts."""
        return self.masked.compress() if self.masked else self.clip


def _pairs(clip: CLIPModel, batch: Mapping[str, Any]) -> Pairs:
    scale = clip.logit_scale.clamp(max=math.log(MAX_SCALE)).exp()
    return Pairs(embed_pixels(clip, batch["pixels"]), embed_ids(clip, batch["ids"]), scale)
