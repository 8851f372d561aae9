"""Crop of a policy's images, resized to their size: a random one in training, the middle when the policy acts."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def random_crop(images: Tensor, ratio: float, max_degrees: float = 0.0) -> Tensor:
    """Crop each sample at a random place, resize it, and rotate it by up to `max_degrees` to either side.

    All cameras of a sample are cropped and rotated together. What a rotation leaves empty is black. Torch's global
    generator draws, one row per sample.

    Args:
        images: (B, C, 3, H, W), float.
        ratio: height and width of the crop as a share of the image's; 1: all of it.
        max_degrees: largest rotation; 0: none.
    """
    if ratio == 1 and max_degrees == 0:
        return images
    height, width = images.shape[-2:]
    size = _crop_size(height, width, ratio)
    draws = torch.rand(len(images), 3)
    rows, columns = ((draws[:, i] * (side - size[i] + 1)).long().tolist() for i, side in enumerate((height, width)))
    crops = [
        sample[..., row : row + size[0], column : column + size[1]]
        for sample, row, column in zip(images, rows, columns, strict=True)
    ]
    angles = (2 * draws[:, 2] - 1) * math.radians(max_degrees)
    return rotate(_resized(torch.stack(crops), height, width), angles)


def centre_crop(images: Tensor, ratio: float) -> Tensor:
    """Crop the middle of images (B, C, 3, H, W), a share `ratio` of height and width, and resize it to their size."""
    height, width = images.shape[-2:]
    return _resized(images[..., _middle(height, ratio), _middle(width, ratio)], height, width)


def rotate(images: Tensor, angles: Tensor) -> Tensor:
    """Rotate images (B, C, 3, H, W) about their middle by angles (B,) in radians, to the nearest pixel."""
    if not angles.any():
        return images
    height, width = images.shape[-2:]
    cosine, sine, zero = angles.cos(), angles.sin(), torch.zeros_like(angles)
    # Either side of an image is 2 units long, so that the axes of an image that is not square differ in scale.
    rows = [[cosine, -sine * height / width, zero], [sine * width / height, cosine, zero]]
    maps = torch.stack([torch.stack(row, dim=-1) for row in rows], dim=1).to(images)
    flat = images.flatten(1, 2)
    with torch.autocast(images.device.type, enabled=False):  # in bf16 the places would be off by a pixel
        grid = F.affine_grid(maps, list(flat.shape), align_corners=False)
        rotated = F.grid_sample(flat, grid, mode="nearest", padding_mode="zeros", align_corners=False)
    return rotated.unflatten(1, images.shape[1:3])


def _crop_size(height: int, width: int, ratio: float) -> tuple[int, int]:
    """Height and width of a random crop, rounded as in the released TinyVLA."""
    return max(1, int(height * ratio)), max(1, int(width * ratio))


def _middle(side: int, ratio: float) -> slice:
    """Pixels of the middle, rounded as in the released TinyVLA."""
    start = int(side * (1 - ratio) / 2)
    return slice(start, max(start + 1, int(side * (1 + ratio) / 2)))


def _resized(images: Tensor, height: int, width: int) -> Tensor:
    if images.shape[-2:] == (height, width):
        return images
    resized = F.interpolate(images.flatten(0, 1), (height, width), mode="bilinear", antialias=True)
    return resized.unflatten(0, images.shape[:2])
