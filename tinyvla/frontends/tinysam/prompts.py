"""Prompts on one picture: points and boxes in its own pixels go in, masks of its own size come out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import masks_to_boxes

from ...errors import UserError
from ...extras import needs_extra
from ..images import Picture, check_image
from .model import Segmenter

with needs_extra("frontends", "TinySAM"):
    from pycocotools import mask as coco

type Numbers = np.ndarray | Tensor | Sequence[Any]


@dataclass(frozen=True)
class Encoded:
    """A picture that has been encoded once, for any number of prompts.

    embedding: (1, C, s, s).
    size: its height and width.
    fitted: height and width at which it lies in the top left corner of the square that the encoder sees.
    """

    embedding: Tensor
    size: tuple[int, int]
    fitted: tuple[int, int]

    def to_square(self, places: Tensor) -> Tensor:
        """Places (..., 2), x and y, in the picture's pixels as such in the square's."""
        (height, width), (rows, columns) = self.size, self.fitted
        return places * places.new_tensor([columns / width, rows / height])


@dataclass(frozen=True)
class Masks:
    """N masks of one picture, the best first; on the CPU, wherever the segmenter is.

    masks: (N, H, W) bool.
    scores: (N,), the predicted IoUs.
    """

    masks: Tensor
    scores: Tensor

    def __len__(self) -> int:
        return len(self.masks)

    def best(self) -> "Masks":
        """The first one alone, or none of none."""
        return Masks(self.masks[:1], self.scores[:1])

    @property
    def boxes(self) -> Tensor:
        """(N, 4) whole pixels, x0, y0, x1, y1, half-open; zeros for an empty mask."""
        boxes = torch.zeros(len(self), 4)
        some = self.masks.flatten(1).any(1)
        if some.any():
            boxes[some] = masks_to_boxes(self.masks[some]) + torch.tensor([0.0, 0.0, 1.0, 1.0])
        return boxes

    def to_coco(self) -> list[dict[str, Any]]:
        """A record a mask as COCO's results have it, JSON: `segmentation` is a compressed run-length code."""
        codes = coco.encode(np.asfortranarray(self.masks.permute(1, 2, 0).numpy().astype(np.uint8)))
        return [
            {
                "segmentation": {"size": list(code["size"]), "counts": code["counts"].decode("ascii")},
                "area": int(coco.area(code)),
                "bbox": coco.toBbox(code).tolist(),
                "score": float(score),
            }
            for code, score in zip(codes, self.scores.tolist(), strict=True)
        ]


def masks_from_coco(records: Sequence[dict[str, Any]]) -> Masks:
    """The masks of `Masks.to_coco`'s records, at least one."""
    masks = coco.decode([record["segmentation"] for record in records])
    return Masks(torch.from_numpy(masks).permute(2, 0, 1).bool(), torch.tensor([record["score"] for record in records]))


@torch.inference_mode()
def encode_picture(segmenter: Segmenter, image: Picture) -> Encoded:
    """Encode one picture; its longer side fills the square, and the rest of that is left empty, as SAM does it.

    Raises UserError for what is no picture.
    """
    image = check_image(image)
    side, (height, width) = segmenter.config.image_size, image.shape[:2]
    fitted = (max(1, round(height * side / max(image.shape))), max(1, round(width * side / max(image.shape))))
    pixels = torch.tensor(image, device=segmenter.mean.device).permute(2, 0, 1).unsqueeze(0) / 255
    if fitted != (height, width):
        pixels = F.interpolate(pixels, fitted, mode="bilinear", antialias=True)
    padding = (0, side - fitted[1], 0, side - fitted[0])
    embedding = segmenter.image_encoder(F.pad(segmenter.normalise(pixels), padding))
    return Encoded(embedding, (height, width), fitted)


def segment_points(segmenter: Segmenter, picture: Encoded, points: Numbers, labels: Numbers | None = None) -> Masks:
    """The one object that all the points tell about.

    Args:
        points: (K, 2), x and y in pixels of the picture.
        labels: (K,), 1 for a point on the object, 0 for one beside it; None: all are on it.

    Returns the decoder's several masks, the best first. Raises UserError for a point outside the picture, no point, or
    labels that do not fit.
    """
    places = _checked(points, 2, "points")
    height, width = picture.size
    outside = (places < 0).any(1) | (places[:, 0] > width - 1) | (places[:, 1] > height - 1)
    if outside.any():
        x, y = places[outside][0].tolist()
        raise UserError(f"the point ({x:g}, {y:g}) lies outside the picture of {width}x{height} pixels; give one in it")
    marks = torch.ones(len(places)) if labels is None else torch.as_tensor(np.asarray(labels), dtype=torch.float32)
    if marks.shape != places.shape[:1] or not ((marks == 0) | (marks == 1)).all():
        raise UserError(
            f"labels must be {len(places)} zeros and ones, one a point, and are {marks.tolist()}; "
            "1 means on the object, 0 beside it"
        )
    device = picture.embedding.device
    square = picture.to_square(places.to(device))
    return _ask(segmenter, picture, points=square[None, None], labels=marks.to(device)[None, None])


def segment_box(segmenter: Segmenter, picture: Encoded, box: Numbers) -> Masks:
    """The object in a box: x0, y0, x1, y1 in pixels of the picture, half-open; what reaches beyond it is cut off.

    Returns the decoder's several masks, the best first. Raises UserError for a box without an area in the picture.
    """
    corners = _checked([box], 4, "box").reshape(2, 2)
    height, width = picture.size
    inside = corners.clamp(min=0).minimum(torch.tensor([float(width), float(height)]))
    if (inside[1] <= inside[0]).any():
        text = ", ".join(f"{value:g}" for value in corners.flatten().tolist())
        raise UserError(
            f"the box ({text}) has no area in the picture of {width}x{height} pixels; give x0, y0, x1, y1 with x0 < x1 "
            "and y0 < y1"
        )
    square = picture.to_square(inside.to(picture.embedding.device))
    return _ask(segmenter, picture, boxes=square.reshape(1, 1, 4))


def _checked(values: Numbers, columns: int, name: str) -> Tensor:
    try:
        rows = torch.as_tensor(np.asarray(values, dtype=np.float32))
    except (TypeError, ValueError) as error:
        raise UserError(f"{name} must be rows of {columns} numbers, all of one length; mend them") from error
    if rows.ndim != 2 or rows.shape[1] != columns or len(rows) == 0 or not rows.isfinite().all():
        raise UserError(f"{name} must be one or more rows of {columns} finite numbers, and {name} is {values}")
    return rows


@torch.inference_mode()
def _ask(segmenter: Segmenter, picture: Encoded, **prompt: Tensor) -> Masks:
    logits, scores = segmenter.decode(picture.embedding, **prompt)
    order = scores[0, 0].argsort(descending=True)
    return Masks((to_picture(segmenter, picture, logits[0, 0, order]) > 0).cpu(), scores[0, 0, order].cpu())


def to_picture(segmenter: Segmenter, picture: Encoded, logits: Tensor) -> Tensor:
    """Mask logits (N, 4 s, 4 s) of the square at the size of the picture, (N, H, W)."""
    side, (rows, columns) = segmenter.config.image_size, picture.fitted
    square = F.interpolate(logits.unsqueeze(0), (side, side), mode="bilinear", align_corners=False)
    fitted = square[..., :rows, :columns]
    return F.interpolate(fitted, picture.size, mode="bilinear", align_corners=False).squeeze(0)
