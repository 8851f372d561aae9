"""Random views of images, reproducible from a seed: a student gets the views that its teacher had."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torchvision.transforms.v2.functional as F
from torch import Tensor


@dataclass(frozen=True)
class RandomView:
    """Random resized crop with mirroring and colour jitter.

    All draws depend on the seed of the call (PCG64, as in TinyViT, arXiv 2207.10666, section 3.2) and not on torch's
    generator, so that threads and processes can make views in any order.

    Args:
        image_size: side in pixels of a view.
        scale: smallest area of a crop, as a share of the image.
        ratio: largest aspect ratio of a crop, in both directions.
        flip: mirror with probability 1/2.
        colour: brightness, contrast and saturation are multiplied by factors from [1 - colour, 1 + colour].
    """

    image_size: int
    scale: float = 0.5
    ratio: float = 4 / 3
    flip: bool = True
    colour: float = 0.2

    def describe(self) -> dict[str, Any]:
        """Settings as JSON; equal settings give equal views for every seed."""
        return asdict(self)

    def __call__(self, image: Tensor, seed: int) -> Tensor:
        """View (3, image_size, image_size), float in [0, 1], of an image uint8 (3, H, W)."""
        rng = np.random.Generator(np.random.PCG64(seed))
        height, width = image.shape[-2:]
        area = rng.uniform(self.scale, 1) * height * width
        ratio = math.exp(rng.uniform(-1, 1) * math.log(self.ratio))
        crop_width = min(width, max(1, round(math.sqrt(area * ratio))))
        crop_height = min(height, max(1, round(math.sqrt(area / ratio))))
        top, left = int(rng.integers(height - crop_height + 1)), int(rng.integers(width - crop_width + 1))
        mirrored = self.flip and rng.random() < 0.5
        factors = rng.uniform(1 - self.colour, 1 + self.colour, 3)
        size = [self.image_size, self.image_size]
        view = F.resized_crop(image, top, left, crop_height, crop_width, size, antialias=True)
        if mirrored:
            view = F.horizontal_flip(view)
        view = view.float().div_(255)
        if self.colour:
            for adjust, factor in zip(
                (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation), factors, strict=True
            ):
                view = adjust(view, float(factor))
        return view


def plain_view(image: Tensor, image_size: int) -> Tensor:
    """Whole image uint8 (3, H, W), resized to (3, image_size, image_size), float in [0, 1]."""
    return F.resize(image, [image_size, image_size], antialias=True).to(torch.float32).div_(255)
