"""Segmentation of everything in an image: a grid of points, plain (SAM) or hierarchical (TinySAM).

The image is encoded once, and decoding the points takes most of the time. The hierarchical mode decodes fewer points:
a sparse grid first, then the points of the dense grid that no confident mask of the first covers.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import masks_to_boxes, nms

from ...errors import UserError
from ...ranges import check_range
from .model import Segmenter
from .prompts import EncodedImage, Masks, to_image_size

MAX_POINTS = 1024  # per side of the grid, and decoded at once


@dataclass(frozen=True)
class EverythingSettings:
    """Settings of `segment_everything`. The defaults are those of the released models.

    Args:
        points_per_side: of the dense grid.
        hierarchical: decode a sparse grid first, with a quarter of the points per side.
        min_score: lowest predicted IoU of a mask.
        min_stability: lowest IoU of a mask cut at `stability_offset` above and below 0.
        stability_offset: in logits.
        max_overlap: highest IoU of two masks' boxes; beyond it the mask with the lower score is dropped.
        certain_score, certain_logit: predicted IoU and logit from which a mask of the sparse grid covers a point.
        batch_size: points decoded at once.
    """

    points_per_side: int = 32
    hierarchical: bool = True
    min_score: float = 0.88
    min_stability: float = 0.95
    stability_offset: float = 1.0
    max_overlap: float = 0.7
    certain_score: float = 0.88
    certain_logit: float = 8.5
    batch_size: int = 64

    SPARSER = 4  # ratio of points per side of the dense and the sparse grid

    def __post_init__(self) -> None:
        check_range(self, "points_per_side", "batch_size", low=1, high=MAX_POINTS)
        check_range(self, "min_stability", "max_overlap", "certain_score", low=0, high=1)
        check_range(self, "min_score")  # a network may predict an IoU outside of [0, 1]
        check_range(self, "stability_offset", low=0)
        check_range(self, "certain_logit")
        if self.hierarchical and self.points_per_side < self.SPARSER:
            raise UserError(
                f"points_per_side={self.points_per_side} leaves no sparse grid; "
                f"use at least {self.SPARSER}, or hierarchical=false"
            )


class _Candidates(NamedTuple):
    """Candidate masks: logits (N, 4 s, 4 s), predicted IoUs (N,)."""

    logits: Tensor
    scores: Tensor


@torch.inference_mode()
def segment_everything(
    segmenter: Segmenter, encoded: EncodedImage, settings: EverythingSettings | None = None
) -> Masks:
    """Masks of everything in an image, the best first; empty if no mask passes the thresholds."""
    settings = settings or EverythingSettings()
    points = grid(encoded, settings.points_per_side)
    candidates: list[_Candidates] = []
    if settings.hierarchical:
        candidates = _decode(segmenter, encoded, grid(encoded, settings.points_per_side // settings.SPARSER), settings)
        points = points[~_is_certain(segmenter, points, candidates, settings)]
    candidates += _decode(segmenter, encoded, points, settings)
    return _keep_best(segmenter, encoded, candidates, settings)


def _is_certain(
    segmenter: Segmenter, points: Tensor, candidates: list[_Candidates], settings: EverythingSettings
) -> Tensor:
    """Flags (N,) of the N points of the square that a candidate mask covers with certainty."""
    side = 4 * segmenter.config.embedding_side
    certain = torch.zeros(side, side, dtype=torch.bool, device=points.device)
    for logits, scores in candidates:
        certain |= (logits[scores >= settings.certain_score] > settings.certain_logit).any(0)
    cells = ((points + 0.5) * (side / segmenter.config.image_size)).long()
    return certain[cells[:, 1], cells[:, 0]]


def grid(encoded: EncodedImage, per_side: int) -> Tensor:
    """Centres of per_side x per_side equal parts of the image, (per_side², 2): x and y in pixels of the square."""
    centres = (torch.arange(per_side, device=encoded.embedding.device) + 0.5) / per_side
    x, y = torch.meshgrid(centres * encoded.fitted[1], centres * encoded.fitted[0], indexing="xy")
    return torch.stack([x, y], dim=-1).flatten(0, 1) - 0.5  # the prompt encoder adds half a pixel


def _decode(
    segmenter: Segmenter, encoded: EncodedImage, points: Tensor, settings: EverythingSettings
) -> list[_Candidates]:
    """Masks of single points (N, 2) that pass the thresholds and are not empty, in batches."""
    candidates = []
    for part in points.split(settings.batch_size) if len(points) else ():
        logits, scores = segmenter.decode(encoded.embedding, part[None, :, None], part.new_ones(1, len(part), 1))
        logits, scores = logits[0].flatten(0, 1), scores[0].flatten()
        good = scores >= settings.min_score
        logits, scores = logits[good], scores[good]
        stable = (stability(logits, settings.stability_offset) >= settings.min_stability) & (logits > 0).flatten(1).any(
            1
        )
        candidates.append(_Candidates(logits[stable], scores[stable]))
    return candidates


def stability(logits: Tensor, offset: float) -> Tensor:
    """IoU of a mask (..., h, w) cut at `offset` above and below 0; 0 if it is empty above."""
    inner, outer = (logits > offset).sum((-2, -1)), (logits > -offset).sum((-2, -1))
    return inner / outer.clamp(min=1)


def _keep_best(
    segmenter: Segmenter, encoded: EncodedImage, candidates: list[_Candidates], settings: EverythingSettings
) -> Masks:
    """Best of the masks whose boxes overlap, at the size of the image."""
    logits, scores = (torch.cat(values) for values in zip(*candidates, strict=True))
    if len(scores) == 0:
        return Masks(torch.zeros(0, *encoded.size, dtype=torch.bool), scores.cpu())
    best = nms(masks_to_boxes(logits > 0), scores, settings.max_overlap)
    return Masks((to_image_size(segmenter, encoded, logits[best]) > 0).cpu(), scores[best].cpu())
