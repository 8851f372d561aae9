"""What a student learns from a teacher's probabilities, stored (TinyViT, arXiv 2207.10666, section 3) or live."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def top_probabilities(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest probabilities (B, k) of logits (B, C), largest first, and the classes (B, k) that have them."""
    values, indices = logits.float().softmax(-1).topk(k)
    return values, indices


def soft_label_loss(logits: Tensor, values: Tensor, indices: Tensor) -> Tensor:
    """Cross-entropy with a teacher's sparse probabilities, meaned over the batch.

    Classes that are not among the K have equal shares of what the K leave of 1 (equation 2).

    Args:
        logits: the student's, (B, C).
        values: the teacher's probabilities of K classes, (B, K).
        indices: those classes, (B, K) long.
    """
    log_likelihoods = logits.float().log_softmax(-1)
    picked = log_likelihoods.gather(-1, indices)
    loss = -(values * picked).sum(-1)
    others = logits.shape[-1] - values.shape[-1]
    if others:
        share = (1 - values.sum(-1)).clamp(min=0) / others
        loss = loss - share * (log_likelihoods.sum(-1) - picked.sum(-1))
    return loss.mean()


def online_loss(logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Cross-entropy of logits (B, C) with all of a live teacher's probabilities, of its logits (B, C)."""
    return F.cross_entropy(logits.float(), teacher_logits.float().softmax(-1))


class Teacher:
    """A frozen network that a student learns from; no module, so that it is neither trained nor saved with one.

    Args:
        network: gives logits (B, C) of images (B, 3, H, W), float in [0, 1].
        image_size: what images are resized to for it; None: nothing.
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
