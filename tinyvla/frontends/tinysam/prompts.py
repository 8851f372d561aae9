"""Prompts on one image: points and boxes in pixels of the image, and masks of its size."""

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
from ..images import RgbImage, check_image
from .model import Segmenter

with needs_extra("frontends", "TinySAM"):
    from pycocotools import mask as coco

type Numbers = np.ndarray | Tensor | Sequence[Any]


@dataclass(frozen=True)
class EncodedImage:
    """Image embedding for any number of prompts.

    embedding: (1, C, s, s).
    size: height and width of the image.
    fitted: height and width of the resized image in the top left corner of the encoder's square input.
    """

    embedding: Tensor
    size: tuple[int, int]
    fitted: tuple[int, int]

    def to_square(self, points: Tensor) -> Tensor:
        """Coordinates (..., 2), x and y, in pixels of the image as coordinates in the square."""
        (height, width), (rows, columns) = self.size, self.fitted
        return points * points.new_tensor([columns / width, rows / height])


@dataclass(frozen=True)
class Masks:
    """N masks of one image, the best first, always on the CPU.

    masks: (N, H, W) bool.
    scores: (N,), the predicted IoUs.
    """

    masks: Tensor
    scores: Tensor

    def __len__(self) -> int:
        return len(self.masks)

    def best(self) -> "Masks":
        """The first mask alone; empty if there is none."""
        return Masks(self.masks[:1], self.scores[:1])

    @property
    def boxes(self) -> Tensor:
        """(N, 4) whole pixels, x0, y0, x1, y1, half-open; zeros for an empty mask."""
        boxes = torch.zeros(len(self), 4)
        filled = self.masks.flatten(1).any(1)
        if filled.any():
            boxes[filled] = masks_to_boxes(self.masks[filled]) + torch.tensor([0.0, 0.0, 1.0, 1.0])
        return boxes

    def to_coco(self) -> list[dict[str, Any]]:
        """One JSON record per mask in the format of COCO results; `segmentation` is a compressed run-length code."""
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
    """Masks of the records of `Masks.to_coco`, at least one."""
    masks = coco.decode([record["segmentation"] for record in records])
    return Masks(torch.from_numpy(masks).permute(2, 0, 1).bool(), torch.tensor([record["score"] for record in records]))


@torch.inference_mode()
def encode_image(segmenter: Segmenter, image: RgbImage) -> EncodedImage:
    """Encode one image. Its longer side fills the square and the rest is padded, as in SAM.

    Raises UserError for an array that is not an image.
    """
    image = check_image(image)
    side, (height, width) = segmenter.config.image_size, image.shape[:2]
    scale = side / max(height, width)
    fitted = (max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5)))  # rounded as SAM does
    pixels = torch.tensor(image, device=segmenter.mean.device).permute(2, 0, 1).unsqueeze(0) / 255
    if fitted != (height, width):
        pixels = F.interpolate(pixels, fitted, mode="bilinear", antialias=True)
    padding = (0, side - fitted[1], 0, side - fitted[0])
    embedding = segmenter.image_encoder(F.pad(segmenter.normalise(pixels), padding))
    return EncodedImage(embedding, (height, width), fitted)


def segment_points(
    segmenter: Segmenter, encoded: EncodedImage, points: Numbers, labels: Numbers | None = None
) -> Masks:
    """Segment the one object that all points describe.

    Args:
        segmenter: in evaluation mode.
        encoded: the image.
        points: (K, 2), x and y in pixels of the image.
        labels: (K,), 1 for a point on the object, 0 for a point beside it; None: all are on it.

    Returns the decoder's several masks, the best first. Raises UserError for a point outside the image, no point, or
    labels that do not fit.
    """
    rows = _checked(points, 2, "points")
    height, width = encoded.size
    outside = (rows < 0).any(1) | (rows[:, 0] > width - 1) | (rows[:, 1] > height - 1)
    if outside.any():
        x, y = rows[outside][0].tolist()
        raise UserError(f"the point ({x:g}, {y:g}) lies outside the image of {width}x{height} pixels; give one in it")
    marks = torch.ones(len(rows)) if labels is None else torch.as_tensor(np.asarray(labels), dtype=torch.float32)
    if marks.shape != rows.shape[:1] or not ((marks == 0) | (marks == 1)).all():
        raise UserError(
            f"labels must be {len(rows)} zeros and ones, one per point, and are {marks.tolist()}; "
            "1 means on the object, 0 beside it"
        )
    device = encoded.embedding.device
    square = encoded.to_square(rows.to(device))
    return _decode(segmenter, encoded, points=square[None, None], labels=marks.to(device)[None, None])


def segment_box(segmenter: Segmenter, encoded: EncodedImage, box: Numbers) -> Masks:
    """Segment the object in a box: x0, y0, x1, y1 in pixels of the image, half-open, clipped to the image.

    Returns the decoder's several masks, the best first. Raises UserError for a box without an area in the image.
    """
    corners = _checked([box], 4, "box").reshape(2, 2)
    height, width = encoded.size
    inside = corners.clamp(min=0).minimum(torch.tensor([float(width), float(height)]))
    if (inside[1] <= inside[0]).any():
        text = ", ".join(f"{value:g}" for value in corners.flatten().tolist())
        raise UserError(
            f"the box ({text}) has no area in the image of {width}x{height} pixels; give x0, y0, x1, y1 with x0 < x1 "
            "and y0 < y1"
        )
    square = encoded.to_square(inside.to(encoded.embedding.device))
    return _decode(segmenter, encoded, boxes=square.reshape(1, 1, 4))


def _checked(values: Numbers, columns: int, name: str) -> Tensor:
    try:
        rows = torch.as_tensor(np.asarray(values, dtype=np.float32))
    except (TypeError, ValueError) as error:
        raise UserError(f"{name} must be rows of {columns} numbers, all of one length; fix them") from error
    if rows.ndim != 2 or rows.shape[1] != columns or len(rows) == 0 or not rows.isfinite().all():
        raise UserError(f"{name} must be one or more rows of {columns} finite numbers, and {name} is {values}")
    return rows


@torch.inference_mode()
def _decode(segmenter: Segmenter, encoded: EncodedImage, **prompt: Tensor) -> Masks:
    logits, scores = segmenter.decode(encoded.embedding, **prompt)
    order = scores[0, 0].argsort(descending=True)
    return Masks((to_image_size(segmenter, encoded, logits[0, 0, order]) > 0).cpu(), scores[0, 0, order].cpu())


def to_image_size(segmenter: Segmenter, encoded: EncodedImage, logits: Tensor) -> Tensor:
    """Mask logits (N, 4 s, 4 s) of the square, resized to the image without the padding, (N, H, W)."""
    side, (rows, columns) = segmenter.config.image_size, encoded.fitted
    square = F.interpolate(logits.unsqueeze(1), (side, side), mode="bilinear", align_corners=False)
    fitted = square[..., :rows, :columns]
    return F.interpolate(fitted, encoded.size, mode="bilinear", align_corners=False).squeeze(1)
