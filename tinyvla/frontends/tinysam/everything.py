"""Segmentation of everything in an image: a grid of points, plain (SAM) or hierarchical (TinySAM).

The image is encoded once, and decoding the points takes most of the time. The hierarchical mode decodes fewer points:
a sparse grid first, then the points of the dense grid that no confident mask of the first covers. As in the released
TinySAM, masks are judged at the size of the image, without the padding of the square.
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
RESIZED_PIXELS = 2**24  # of masks at the size of the image, at once: 64 MB of logits


@dataclass(frozen=True)
class EverythingSettings:
    """Settings of `segment_everything`. The defaults are those of the released models.

    Args:
        points_per_side: of the dense grid.
        hierarchical: decode a sparse grid first, with a quarter of the points per side.
        min_score: lowest predicted IoU of a mask.
        min_stability: lowest IoU of a mask, at the size of the image, cut at `stability_offset` above and below 0.
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
    """Candidate masks: logits (N, 4 s, 4 s) of the square, predicted IoUs (N,), boxes (N, 4) in pixels of the image.

    They keep the size of the decoder: a thousand masks of the size of a photograph would not fit into memory.
    """

    logits: Tensor
    scores: Tensor
    boxes: Tensor


@torch.inference_mode()
def segment_everything(
    segmenter: Segmenter, encoded: EncodedImage, settings: EverythingSettings | None = None
) -> Masks:
    """Masks of everything in an image, the best first; empty if no mask passes the thresholds."""
    settings = settings or EverythingSettings()
    if not settings.hierarchical:
        points = grid(encoded.size, settings.points_per_side)
        return _keep_best(segmenter, encoded, _decode(segmenter, encoded, points, settings), settings)
    sparse = grid(encoded.size, settings.points_per_side // settings.SPARSER)
    candidates = _decode(segmenter, encoded, sparse, settings)
    points = dense_grid(sparse, encoded.size, settings.points_per_side)
    columns, rows = points.long().unbind(1)
    points = points[~_certain_pixels(segmenter, encoded, candidates, settings)[rows, columns]]
    return _keep_best(segmenter, encoded, _decode(segmenter, encoded, points, settings) + candidates, settings)


def grid(size: tuple[int, int], per_side: int) -> Tensor:
    """Centres of per_side x per_side equal parts of an image (height, width), (per_side², 2): x and y in pixels."""
    height, width = size
    centres = torch.arange(per_side) + 0.5
    return torch.cartesian_prod(centres * height / per_side, centres * width / per_side).flip(1)


def dense_grid(sparse: Tensor, size: tuple[int, int], per_side: int) -> Tensor:
    """Points of the dense grid without those of the sparse grid, (N, 2): x and y in pixels of the image.

    As in the released TinySAM, the step is a whole number of pixels, and every sparse point has 15 neighbours, from one
    step before it to two steps after it; those beyond the image are left out.
    """
    height, width = size
    # An image with fewer pixels than points along a side has a step of 0 and no neighbours there.
    steps = [torch.arange(-1, 3).mul(side // per_side).unique() for side in (width, height)]
    offsets = torch.cartesian_prod(*steps)
    points = (sparse[:, None] + offsets[offsets.any(1)]).flatten(0, 1)
    return points[(points < torch.tensor([width, height])).all(1)]


def _decode(
    segmenter: Segmenter, encoded: EncodedImage, points: Tensor, settings: EverythingSettings
) -> list[_Candidates]:
    """Masks of single points (N, 2) that pass the thresholds and are not empty, in batches."""
    square = encoded.to_square(points.to(encoded.embedding.device))
    at_once = _masks_at_once(segmenter, encoded)
    candidates: list[_Candidates] = []
    for part in square.split(settings.batch_size) if len(square) else ():
        logits, scores = segmenter.decode(encoded.embedding, part[None, :, None], part.new_ones(1, len(part), 1))
        logits, scores = logits[0].flatten(0, 1), scores[0].flatten()
        good = scores >= settings.min_score
        batches = zip(logits[good].split(at_once), scores[good].split(at_once), strict=True)
        candidates += [_stable(segmenter, encoded, *batch, settings) for batch in batches]
    return candidates


def _masks_at_once(segmenter: Segmenter, encoded: EncodedImage) -> int:
    """Number of masks that `to_image_size` resizes at once."""
    height, width = encoded.size
    return max(1, RESIZED_PIXELS // max(segmenter.config.image_size**2, height * width))


def _stable(
    segmenter: Segmenter, encoded: EncodedImage, logits: Tensor, scores: Tensor, settings: EverythingSettings
) -> _Candidates:
    """Masks that are stable and not empty at the size of the image; the padding does not count."""
    resized = to_image_size(segmenter, encoded, logits)
    masks = resized > 0
    good = (stability(resized, settings.stability_offset) >= settings.min_stability) & masks.flatten(1).any(1)
    return _Candidates(logits[good], scores[good], masks_to_boxes(masks[good]))


def stability(logits: Tensor, offset: float) -> Tensor:
    """IoU of a mask (..., h, w) cut at `offset` above and below 0; 0 if it is empty above."""
    inner, outer = (logits > offset).sum((-2, -1)), (logits > -offset).sum((-2, -1))
    return inner / outer.clamp(min=1)


def _certain_pixels(
    segmenter: Segmenter, encoded: EncodedImage, candidates: list[_Candidates], settings: EverythingSettings
) -> Tensor:
    """Flags (H, W) of the pixels of the image that a candidate mask covers with certainty, on the CPU."""
    certain = torch.zeros(encoded.size, dtype=torch.bool)
    for logits, scores, _ in candidates:
        resized = to_image_size(segmenter, encoded, logits[scores >= settings.certain_score])
        certain |= (resized > settings.certain_logit).any(0).cpu()
    return certain


def _keep_best(
    segmenter: Segmenter, encoded: EncodedImage, candidates: list[_Candidates], settings: EverythingSettings
) -> Masks:
    """Best of the masks whose boxes overlap, at the size of the image."""
    logits, scores, boxes = (torch.cat(values) for values in zip(*candidates, strict=True))
    best = nms(boxes, scores, settings.max_overlap)
    batches = logits[best].split(_masks_at_once(segmenter, encoded))
    masks = [(to_image_size(segmenter, encoded, batch) > 0).cpu() for batch in batches]
    return Masks(torch.cat(masks), scores[best].cpu())
