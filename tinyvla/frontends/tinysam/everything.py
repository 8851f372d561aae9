"""Segment everything: a grid of points over a picture, plain (SAM) or hierarchical (TinySAM).

The picture is encoded once. Most of the time then goes into decoding the points, and the hierarchical way asks fewer
of them: a sparse grid first, and of the dense one only the points that no confident mask of the first covers.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import masks_to_boxes, nms

from ...errors import UserError
from .model import Segmenter
from .prompts import Encoded, Masks, to_picture


@dataclass(frozen=True)
class Everything:
    """How everything is segmented; the defaults are those of the released models.

    Args:
        points_per_side: of the dense grid.
        hierarchical: the sparse grid first, with a quarter of the points a side.
        min_score: predicted IoU from which a mask is kept.
        min_stability: least IoU of a mask's shapes at the logits `stability_offset` above and below 0.
        max_overlap: IoU of two masks' boxes above which the one of the lower score goes.
        certain_score: predicted IoU from which a mask of the sparse grid is believed where it is certain...
        certain_logit: ...and the logit from which it is certain.
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

    SPARSER = 4  # times fewer points a side in the first of two rounds

    def __post_init__(self) -> None:
        if self.points_per_side < 1 or self.batch_size < 1:
            raise UserError("points_per_side and batch_size must be at least 1")
        if self.hierarchical and self.points_per_side < self.SPARSER:
            raise UserError(
                f"points_per_side={self.points_per_side} leaves no sparse grid; "
                f"use at least {self.SPARSER}, or hierarchical=false"
            )


class _Candidates(NamedTuple):
    """Masks that may be kept: logits (N, 4 s, 4 s), predicted IoUs (N,)."""

    logits: Tensor
    scores: Tensor


@torch.inference_mode()
def segment_everything(segmenter: Segmenter, picture: Encoded, how: Everything | None = None) -> Masks:
    """The masks of all that is in a picture, the best first; none where nothing is certain enough."""
    how = how or Everything()
    points = grid(picture, how.points_per_side)
    found = []
    if how.hierarchical:
        found = _decode(segmenter, picture, grid(picture, how.points_per_side // how.SPARSER), how)
        points = points[~_is_certain(segmenter, points, found, how)]
    found += _decode(segmenter, picture, points, how)
    return _keep_best(segmenter, picture, found, how)


def _is_certain(segmenter: Segmenter, points: Tensor, found: list[_Candidates], how: Everything) -> Tensor:
    """Which of N points of the square lie where a mask that has been found leaves no doubt, (N,) bool."""
    side = 4 * segmenter.config.embedding_side
    certain = torch.zeros(side, side, dtype=torch.bool, device=points.device)
    for logits, scores in found:
        certain |= (logits[scores >= how.certain_score] > how.certain_logit).any(0)
    cells = ((points + 0.5) * (side / segmenter.config.image_size)).long()
    return certain[cells[:, 1], cells[:, 0]]


def grid(picture: Encoded, per_side: int) -> Tensor:
    """Centres of per_side x per_side equal parts of the picture, (per_side², 2): x and y in the square's pixels."""
    parts = (torch.arange(per_side, device=picture.embedding.device) + 0.5) / per_side
    x, y = torch.meshgrid(parts * picture.fitted[1], parts * picture.fitted[0], indexing="xy")
    return torch.stack([x, y], dim=-1).flatten(0, 1) - 0.5  # the prompt encoder adds half a pixel


def _decode(segmenter: Segmenter, picture: Encoded, points: Tensor, how: Everything) -> list[_Candidates]:
    """The masks of single points (N, 2) that are good and stable enough and not empty, a batch after the other."""
    found = []
    for part in points.split(how.batch_size) if len(points) else ():
        logits, scores = segmenter.decode(picture.embedding, part[None, :, None], part.new_ones(1, len(part), 1))
        logits, scores = logits[0].flatten(0, 1), scores[0].flatten()
        good = scores >= how.min_score
        logits, scores = logits[good], scores[good]
        kept = (stability(logits, how.stability_offset) >= how.min_stability) & (logits > 0).flatten(1).any(1)
        found.append(_Candidates(logits[kept], scores[kept]))
    return found


def stability(logits: Tensor, offset: float) -> Tensor:
    """IoU of a mask (..., h, w) cut `offset` above and below 0; 0 for one that is empty above."""
    inner, outer = (logits > offset).sum((-2, -1)), (logits > -offset).sum((-2, -1))
    return inner / outer.clamp(min=1)


def _keep_best(segmenter: Segmenter, picture: Encoded, found: list[_Candidates], how: Everything) -> Masks:
    """Of masks whose boxes overlap the best one, at the picture's size."""
    logits, scores = torch.cat([each.logits for each in found]), torch.cat([each.scores for each in found])
    if len(scores) == 0:
        return Masks(torch.zeros(0, *picture.size, dtype=torch.bool), scores.cpu())
    best = nms(masks_to_boxes(logits > 0), scores, how.max_overlap)
    return Masks((to_picture(segmenter, picture, logits[best]) > 0).cpu(), scores[best].cpu())
