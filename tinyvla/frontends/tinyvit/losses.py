"""Losses of a student against a teacher's probabilities, stored (TinyViT, arXiv 2207.10666, section 3) or live."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..cct.losses import ClassifierLoss
from ..classifier import Classifier


def top_probabilities(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest probabilities (B, k) of logits (B, C), largest first, and their classes (B, k)."""
    values, indices = logits.float().softmax(-1).topk(k)
    return values, indices


def soft_label_loss(logits: Tensor, values: Tensor, indices: Tensor) -> Tensor:
    """Mean cross-entropy with a teacher's sparse probabilities.

    The other classes share the remaining probability equally (equation 2).

    Args:
        logits: the student's, (B, C).
        values: the teacher's probabilities of K classes, (B, K).
        indices: those classes, (B, K) long.
    """
    log_likelihoods = logits.float().log_softmax(-1)
    picked = log_likelihoods.gather(-1, indices)
    loss = -(values * picked).sum(-1)
    remaining = logits.shape[-1] - values.shape[-1]
    if remaining:
        share = (1 - values.sum(-1)).clamp(min=0) / remaining
        loss = loss - share * (log_likelihoods.sum(-1) - picked.sum(-1))
    return loss.mean()


def online_loss(logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Cross-entropy of logits (B, C) with all probabilities of a live teacher, from its logits (B, C)."""
    return F.cross_entropy(logits.float(), teacher_logits.float().softmax(-1))


class Teacher:
    """Frozen network that a student learns from. It is not a module, so that it is neither trained nor saved.

    Args:
        network: from images (B, 3, H, W), float in [0, 1], to logits (B, C).
        image_size: side that images are resized to; None: they are not resized.
    """

    def __init__(self, network: nn.Module, image_size: int | None = None):
        self.network, self.image_size = network.eval().requires_grad_(False), image_size

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Logits (B, C) of images (B, 3, H, W), on the images' device."""
        if next(self.network.parameters()).device != images.device:
            self.network.to(images.device)
        size = self.image_size
        if size and images.shape[-2:] != (size, size):
            images = F.interpolate(images, (size, size), mode="bilinear", antialias=True)
        return self.network(images)


class TinyVitLoss(ClassifierLoss):
    """Loss of a classifier against a teacher: live, or stored as `values` and `indices` of the batch."""

    def __init__(self, classifier: Classifier, teacher: Teacher | None = None):
        super().__init__(classifier)
        self._teacher = teacher

    def loss(self, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        logits = self.classifier(batch["images"])
        if self._teacher is not None:
            return online_loss(logits, self._teacher(batch["images"])), logits
        return soft_label_loss(logits, batch["values"], batch["indices"]), logits

    def forward(self, batch: Mapping[str, Any]) -> tuple[Tensor, None]:
        return self.loss(batch)[0], None
