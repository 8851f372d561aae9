"""Random views of pictures that a seed stands for, so that whoever has the seed sees what the teacher saw."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torchvision.transforms.v2.functional as F
from torch import Tensor


@dataclass(frozen=True)
class RandomView:
    """A random resized crop, mirrored or not, with jittered colours.

    Every draw comes from the seed that it is called with (PCG64, as TinyViT's, arXiv 2207.10666, section 3.2) and none
    from torch's generator: threads and processes can make views side by side, in any order.

    Args:
        image_size: side in pixels of a view.
        scale: smallest share of a picture's area that a crop has.
        ratio: largest ratio of a crop's sides, either way.
        flip: mirror every second view.
        colour: brightness, contrast and saturation are multiplied by factors from [1 - colour, 1 + colour].
    """

    image_size: int
    scale: float = 0.5
    ratio: float = 4 / 3
    flip: bool = True
    colour: float = 0.2

    def describe(self) -> dict[str, Any]:
        """What two views must have in common to be alike for every seed."""
        return asdict(self)

    def __call__(self, image: Tensor, seed: int) -> Tensor:
        """A seed's view (3, image_size, image_size), float in [0, 1], of a picture uint8 (3, H, W)."""
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
    """A whole picture uint8 (3, H, W) as (3, image_size, image_size), float in [0, 1]."""
    return F.resize(image, [image_size, image_size], antialias=True).to(torch.float32).div_(255)
