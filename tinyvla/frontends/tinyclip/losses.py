"""What a student learns from: matching pictures and captions, and its teacher's affinities (arXiv 2309.12314, 3.1)."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Pairs(NamedTuple):
    """B pictures and the B captions that belong to them, as one model sees them.

    image, text: (B, D) unit vectors.
    scale: scalar, one over the temperature.
    """

    image: Tensor
    text: Tensor
    scale: Tensor

    @property
    def logits(self) -> Tensor:
        """(B, B): row i is how well picture i fits every caption."""
        return self.scale * self.image @ self.text.T


def contrastive_loss(student: Pairs) -> Tensor:
    """CLIP's loss: each picture among all captions of the batch, and each caption among all pictures; their mean."""
    logits = student.logits
    own = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def affinity_loss(student: Pairs, teacher: Pairs) -> Tensor:
    """Affinity mimicking, equations 1 to 3: cross-entropy of the student's affinities with the teacher's.

    An affinity is how a picture spreads over the batch's captions (softmax of a row, image to text), or a caption over
    its pictures (of a column, text to image). The mean of both directions; widths may differ.
    """
    learnt, given = student.logits, teacher.logits.detach()
    image_to_text = F.cross_entropy(learnt, given.softmax(dim=1))
    text_to_image = F.cross_entropy(learnt.T, given.T.softmax(dim=1))
    return (image_to_text + text_to_image) / 2


def distillation_loss(student: Pairs, teacher: Pairs | None, weight: float) -> tuple[Tensor, dict[str, float]]:
    """`weight` parts affinity mimicking and the rest contrastive; without a teacher, the contrastive loss alone.

    Returns the loss and its parts, to log.
    """
    contrast = contrastive_loss(student)
    if teacher is None or weight == 0:
        return contrast, {"contrastive": contrast.item()}
    affinity = affinity_loss(student, teacher)
    loss = weight * affinity + (1 - weight) * contrast
    return loss, {"contrastive": contrast.item(), "affinity": affinity.item()}
