"""Augmentation of image tensors, after decoding and before the policy's pre-processor."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .ranges import check_range

Part = tuple[int, int]  # (index, of): the images are one of `of` equal parts of a batch

MAX_SHIFT = 64  # pixels


@dataclass
class AugmentConfig:
    """Random changes of training images; 0 turns one off.

    Args:
        shift: largest shift in pixels, in x and y.
        brightness, contrast, saturation: largest change of the colours, as a share.
    """

    shift: int = 1
    brightness: float = 0.1
    contrast: float = 0.1
    saturation: float = 0.1

    def __post_init__(self) -> None:
        check_range(self, "shift", low=0, high=MAX_SHIFT)
        check_range(self, "brightness", "contrast", "saturation", low=0, high=1)


def _draws(draw: Callable[[int], Tensor], images: Tensor, part: Part) -> Tensor:
    """The part of `draw` (samples -> (..., samples)) for these images, drawn for the whole batch."""
    index, of = part
    return draw(of * len(images))[..., index * len(images) : (index + 1) * len(images)]


def random_shift(images: Tensor, pixels: int, generator: torch.Generator | None = None, part: Part = (0, 1)) -> Tensor:
    """Shift each sample by up to `pixels` whole pixels in x and y, repeating the border (DrQ, arXiv 2004.13649).

    images: (B, [T,] 3, H, W); all time steps of a sample move together.
    """
    if pixels == 0:
        return images
    height, width = images.shape[-2:]
    offsets = _draws(lambda n: torch.randint(2 * pixels + 1, (2, n), generator=generator), images, part)
    padded = F.pad(images.flatten(0, -4), (pixels,) * 4, mode="replicate").unflatten(0, images.shape[:-3])
    shifted = zip(padded, *offsets.tolist(), strict=True)
    return torch.stack([sample[..., y : y + height, x : x + width] for sample, y, x in shifted])


def random_colour(
    images: Tensor,
    brightness: float,
    contrast: float,
    saturation: float,
    generator: torch.Generator | None = None,
    part: Part = (0, 1),
) -> Tensor:
    """Jitter each sample's colours by factors drawn from [1 - x, 1 + x]; images (B, [T,] 3, H, W) float in [0, 1]."""
    if brightness == contrast == saturation == 0:
        return images

    def factor(strength: float) -> Tensor:
        draws = _draws(lambda n: torch.rand(n, generator=generator), images, part)
        return (1 + strength * (2 * draws - 1)).view(-1, *[1] * (images.ndim - 1)).to(images)

    # Times b, c times further from the image's mean, s times further from grey: one linear map of the colours and a
    # constant, so that every pixel is computed once.
    b, c, s = (factor(strength) for strength in (brightness, contrast, saturation))
    grey = images.new_full((3, 3), 1 / 3)
    mixture = (b * c * (s * (torch.eye(3).to(grey) - grey) + grey)).squeeze(-3)  # (B, [1,] 3, 3)
    constant = (b * (1 - c) * images.mean((-3, -2, -1), keepdim=True)).squeeze(-1)
    mixed = mixture @ images.flatten(-2) + constant
    return mixed.clamp_(0, 1).unflatten(-1, images.shape[-2:])


def random_noise(
    images: Tensor, max_std: float, generator: torch.Generator | None = None, part: Part = (0, 1)
) -> Tensor:
    """Add a camera sensor's noise, normal with a standard deviation that each sample draws from [0, max_std].

    images: (B, [T,] 3, H, W) float in [0, 1]; `max_std` is a share of that range.
    """
    if max_std == 0:
        return images
    deviations = _draws(lambda n: max_std * torch.rand(n, generator=generator), images, part)
    shape = images.shape[1:]
    normal = _draws(lambda n: torch.randn(n, *shape, generator=generator).movedim(0, -1), images, part).movedim(-1, 0)
    return (images + deviations.view(-1, *[1] * len(shape)).to(images) * normal.to(images)).clamp_(0, 1)


def augment_images(
    images: Tensor,
    config: AugmentConfig,
    generator: torch.Generator | None = None,
    part: Part = (0, 1),
) -> Tensor:
    """Random shift and colour jitter of images (B, [T,] 3, H, W), float in [0, 1].

    The parts of a batch, each with a generator of the same seed, have the same values as within the whole batch.
    """
    images = random_shift(images, config.shift, generator, part)
    return random_colour(images, config.brightness, config.contrast, config.saturation, generator, part)
