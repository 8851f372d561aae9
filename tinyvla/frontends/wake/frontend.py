"""Person detection as a front-end: alone, beside a policy, or for a `PersonGate`."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ...errors import UserError
from ..base import Feature, Findings, Frontend
from ..images import RgbImage, check_image
from .model import SIZES, make_network, prepare

_RED, _GREEN = (220, 30, 30), (30, 170, 60)
_FRAME = 40  # side of the image over the width of the drawn frame


class Wake(Frontend):
    """Probability that a person is in an image.

    Args:
        network: one of `model.NETWORKS`.
        width: share of its channels, 0.1 to 1.
        image_size: side in pixels of the network's square input, 48 to 224.
        on, off: thresholds of a `PersonGate`, chosen on validation images (`metrics.find_thresholds`); a person is
            reported from `on`.

    Raises UserError for an unknown network, or a width or size out of range.
    """

    name: ClassVar[str] = "wake"

    def __init__(
        self, network: str = "mcunet", width: float = 1.0, image_size: int = 96, on: float = 0.5, off: float = 0.3
    ):
        super().__init__()
        if not SIZES[0] <= image_size <= SIZES[1]:
            raise UserError(f"image_size={image_size} is out of range; give {SIZES[0]} to {SIZES[1]} pixels")
        self.options = {"network": network, "width": width, "image_size": image_size, "on": on, "off": off}
        self.image_size = image_size
        self.network = make_network(network, width)

    @classmethod
    def check_stored(cls, options: Mapping[str, Any]) -> None:
        for name in ("on", "off"):
            value = options.get(name, 0.5)
            if type(value) not in (int, float) or not 0 <= value <= 1:
                raise UserError(f"the stored {name} of a detector is {str(value)[:40]!r}, not from 0 to 1; train again")

    @property
    def on(self) -> float:
        return self.options["on"]

    @property
    def off(self) -> float:
        return self.options["off"]

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B,) of images (B, 3, H, W), uint8 or float in [0, 1]."""
        return self.network(prepare(images, self.image_size))[:, 0]

    def probability(self, image: np.ndarray) -> float:
        """Probability of a person in an image. Raises UserError for an array that is not an image."""
        pixels = torch.tensor(check_image(image)).permute(2, 0, 1)
        device = next(self.network.parameters()).device
        with torch.inference_mode():
            return float(self(pixels[None].to(device)).sigmoid())

    def adds(self, image_size: tuple[int, int]) -> dict[str, Feature]:
        """One token with one number, the probability."""
        return {"person": Feature((1, 1))}

    def see(self, images: Tensor, instructions: list[str]) -> dict[str, Tensor]:
        return {"person": self(images).sigmoid()[:, None, None]}

    def find(self, image: RgbImage, **request: Any) -> Findings:
        """One record per image; the image gets a red frame with a person and a green one without."""
        if request:
            raise UserError(f"wake takes no {', '.join(sorted(request))}; it only detects people")
        drawn = check_image(image).copy()
        probability = self.probability(drawn)
        person = probability >= self.on
        width = max(1, min(drawn.shape[:2]) // _FRAME)
        inner = drawn[width:-width, width:-width].copy()
        drawn[:] = _RED if person else _GREEN
        drawn[width:-width, width:-width] = inner
        return Findings(drawn, [{"person": person, "probability": round(probability, 4)}])


def predict(module: torch.nn.Module, images: np.ndarray, batch_size: int = 64) -> np.ndarray:
    """Probabilities (N,) of images uint8 (N, H, W, 3) by a `Wake`, quantised or not."""
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    batches = []
    with torch.inference_mode():
        for start in range(0, len(images), batch_size):
            pixels = torch.from_numpy(np.array(images[start : start + batch_size])).permute(0, 3, 1, 2)
            batches.append(module(pixels.to(device)).float().sigmoid().cpu().numpy())
    return np.concatenate(batches) if batches else np.zeros(0, np.float32)
