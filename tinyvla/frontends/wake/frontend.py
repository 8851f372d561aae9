"""The person detector as a front-end: alone, beside a policy, or for a `PersonGate`."""

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ...errors import UserError
from ..base import Feature, Findings, Frontend
from ..images import Picture, check_image
from .model import SIZES, make_network, prepare

_RED, _GREEN = (220, 30, 30), (30, 170, 60)
_FRAME = 40  # a picture's side through the width of the frame that is drawn around it


class Wake(Frontend):
    """Says how likely it is that a person is in a picture.

    Args:
        network: a name out of `models.NETWORKS`.
        width: share of its channels, 0.1 to 1.
        image_size: side of the square that pictures are squeezed into, 48 to 224 pixels.
        on, off: thresholds for a `PersonGate`, found on validation pictures (`suite.find_thresholds`); a person is
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

    @property
    def on(self) -> float:
        return self.options["on"]

    @property
    def off(self) -> float:
        return self.options["off"]

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B,) of pictures (B, 3, H, W), uint8 or float in [0, 1]."""
        return self.network(prepare(images, self.image_size))[:, 0]

    def probability(self, image: np.ndarray) -> float:
        """That a person is in a picture of any usual kind. Raises UserError for what is no picture."""
        pixels = torch.tensor(check_image(image)).permute(2, 0, 1)
        device = next(self.network.parameters()).device
        with torch.inference_mode():
            return float(self(pixels[None].to(device)).sigmoid())

    def adds(self, image_size: tuple[int, int]) -> dict[str, Feature]:
        """One token with one number: the probability."""
        return {"person": Feature((1, 1))}

    def see(self, images: Tensor, instructions: list[str]) -> dict[str, Tensor]:
        return {"person": self(images).sigmoid()[:, None, None]}

    def find(self, image: Picture, **request: Any) -> Findings:
        """Whether a person is in a picture; it gets a red frame if so, a green one if not."""
        if request:
            raise UserError(f"wake takes no {', '.join(sorted(request))}; it only looks for people")
        picture = check_image(image).copy()
        probability = self.probability(picture)
        found = probability >= self.on
        width = max(1, min(picture.shape[:2]) // _FRAME)
        inner = picture[width:-width, width:-width].copy()
        picture[:] = _RED if found else _GREEN
        picture[width:-width, width:-width] = inner
        return Findings(picture, [{"person": found, "probability": round(probability, 4)}])


def predict(module: torch.nn.Module, images: np.ndarray, batch_size: int = 64) -> np.ndarray:
    """Probabilities (N,) of pictures uint8 (N, H, W, 3) by a `Wake`, or one that was quantised."""
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    found = []
    with torch.inference_mode():
        for start in range(0, len(images), batch_size):
            pixels = torch.from_numpy(np.array(images[start : start + batch_size])).permute(0, 3, 1, 2)
            found.append(module(pixels.to(device)).float().sigmoid().cpu().numpy())
    return np.concatenate(found) if found else np.zeros(0, np.float32)
