"""Front-end that needs no training: an image of how saturated each pixel is, so that coloured objects stand out."""

from typing import Any

import torch
from torch import Tensor

from tinyvla.frontends import Feature, Findings, Frontend


class Saturation(Frontend):
    """Saturation of every pixel, as another image for the policy.

    Args:
        gain: factor of the saturation; the product is at most 1.
    """

    name = "saturation"

    def __init__(self, gain: float = 1.0):
        super().__init__()
        self.options = {"gain": gain}

    def adds(self, image_size: tuple[int, int]) -> dict[str, Feature]:
        """One image of the same size."""
        return {"map": Feature((3, *image_size))}

    def see(self, images: Tensor, instructions: list[str]) -> dict[str, Tensor]:
        """The map (B, 3, H, W) in [0, 1] of images (B, 3, H, W) in [0, 1]."""
        highest, lowest = images.amax(1, keepdim=True), images.amin(1, keepdim=True)
        saturation = (highest - lowest) / highest.clamp(min=1e-3)
        return {"map": (self.options["gain"] * saturation).clamp(max=1).expand_as(images)}

    def find(self, image: Any, **request: Any) -> Findings:
        """The map of one image uint8 (H, W, 3), and its mean."""
        pixels = torch.as_tensor(image).permute(2, 0, 1)[None] / 255
        saturation = self.see(pixels, [""])["map"][0]
        drawn = (saturation.permute(1, 2, 0) * 255).round().byte().numpy()
        return Findings(drawn, [{"mean_saturation": round(float(saturation.mean()), 4)}])
