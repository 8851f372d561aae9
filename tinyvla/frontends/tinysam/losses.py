"""What a segmenter learns from: masks and their qualities (SAM, arXiv 2304.02643, appendix A), and hard masks."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

FOCAL_WEIGHT = 20.0  # against dice and IoU, as SAM has it


def shrink_masks(masks: Tensor, side: int) -> Tensor:
    """Masks (B, P, S, S) bool in the decoder's resolution (B, P, side, side), float 0 or 1.

    A cell is on the object where half of it or more is. One that would vanish so keeps all that it touches.
    """
    shares = F.adaptive_avg_pool2d(masks.float(), side)
    half = (shares >= 0.5).float()
    return torch.where(half.flatten(2).any(2)[..., None, None], half, (shares > 0).float())


def mask_iou(one: Tensor, other: Tensor) -> Tensor:
    """IoU of bool masks (..., H, W) that broadcast; two empty ones have 0."""
    common, either = (one & other).sum((-2, -1)), (one | other).sum((-2, -1))
    return common / either.clamp(min=1)


def mask_loss(logits: Tensor, scores: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Loss of the masks, and the mean squared error of the predicted IoUs.

    A prompt can mean several things: of its M masks the one with the least loss (20 focal + dice) is trained, so that
    they come to differ; all M predicted IoUs are.

    Args:
        logits, scores: (B, P, M, h, w) and (B, P, M) of `Segmenter.decode`.
        targets: (B, P, h, w) of `shrink_masks`.
    """
    wanted = targets.unsqueeze(2).expand_as(logits)
    focal = sigmoid_focal_loss(logits, wanted).mean((-2, -1))
    shares = logits.sigmoid()
    overlap = 2 * (shares * wanted).sum((-2, -1)) + 1
    dice = 1 - overlap / (shares.sum((-2, -1)) + wanted.sum((-2, -1)) + 1)
    best = (FOCAL_WEIGHT * focal + dice).min(2).values
    actual = mask_iou(logits.detach() > 0, wanted > 0.5)
    return best.mean(), F.mse_loss(scores, actual)


def hardness(teacher: Tensor, student: Tensor, targets: Tensor) -> Tensor:
    """How much a prompt's output distillation counts (TinySAM, equation 6), (B, P) in (0, 1).

    More where the teacher's mask is right and the student's is not.

    Args:
        teacher, student: bool masks (B, P, h, w), each one's answer.
        targets: (B, P, h, w) of `shrink_masks`.
    """
    truth = targets > 0.5
    return torch.sigmoid(mask_iou(teacher, truth) / (mask_iou(student, truth) + 1e-3) - 1)


def answer(logits: Tensor, scores: Tensor) -> Tensor:
    """Of each prompt's M masks the one with the highest predicted IoU: (B, P, M, h, w) -> (B, P, h, w)."""
    best = scores.argmax(2)[..., None, None, None].expand(-1, -1, 1, *logits.shape[-2:])
    return logits.gather(2, best).squeeze(2)
