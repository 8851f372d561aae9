"""Image augmentation on the tensor side, after decoding and before the policy's pre-processor."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor


def random_shift(images: Tensor, pixels: int, generator: torch.Generator | None = None) -> Tensor:
    """Shift each sample by up to `pixels` whole pixels in x and y, repeating the border (DrQ, arXiv 2004.13649).

    images: (B, [T,] 3, H, W); all time steps of a sample move together.
    """
    if pixels == 0:
        return images
    height, width = images.shape[-2:]
    offsets = torch.randint(2 * pixels + 1, (2, len(images)), generator=generator).to(images.device)
    padded = F.pad(images.flatten(0, -4), (pixels,) * 4, mode="replicate").unflatten(0, images.shape[:-3])
    rows = offsets[0, :, None] + torch.arange(height, device=images.device)
    columns = offsets[1, :, None] + torch.arange(width, device=images.device)
    sample = torch.arange(len(images), device=images.device)[:, None, None]
    moved = padded.movedim((-2, -1), (1, 2))[sample, rows[:, :, None], columns[:, None, :]]
    return moved.movedim((1, 2), (-2, -1)).contiguous()


def random_colour(
    images: Tensor, brightness: float, contrast: float, saturation: float, generator: torch.Generator | None = None
) -> Tensor:
    """Jitter each sample's colours by factors drawn from [1 - x, 1 + x]; images (B, [T,] 3, H, W) float in [0, 1]."""
    if brightness == contrast == saturation == 0:
        return images
    shape = (len(images),) + (1,) * (images.ndim - 1)

    def factor(strength: float) -> Tensor:
        return (1 + strength * (2 * torch.rand(shape, generator=generator) - 1)).to(images)

    images = images * factor(brightness)
    images = torch.lerp(images.mean((-3, -2, -1), keepdim=True), images, factor(contrast))
    images = torch.lerp(images.mean(-3, keepdim=True), images, factor(saturation))
    return images.clamp(0, 1)


def augment_images(images: Tensor, options: Mapping[str, float], generator: torch.Generator | None = None) -> Tensor:
    """Random shift and colour jitter; options: shift (pixels), brightness, contrast, saturation; 0 is off."""
    images = random_shift(images, int(options["shift"]), generator)
    return random_colour(images, options["brightness"], options["contrast"], options["saturation"], generator)
