"""The backbone seam: images of one or more cameras and an instruction go in, token features come out."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import draccus
from torch import Tensor, nn


class Features(NamedTuple):
    """Token features of a batch, computed once an action chunk and read by an action decoder.

    tokens: (B, N, D) last hidden states: every camera's image tokens, then the instruction's.
    mask: (B, N) bool, True where a token is real and False where it is padding.
    """

    tokens: Tensor
    mask: Tensor


class Backbone(nn.Module):
    """A multimodal encoder. Subclasses set `hidden_size` (D) and implement `forward`."""

    hidden_size: int

    def forward(self, images: Tensor, instructions: list[str]) -> Features:
        """Encode images (B, C, 3, H, W), float in [0, 1], of C cameras, with B instructions."""
        raise NotImplementedError

    def save_assets(self, directory: Path) -> None:
        """Write what rebuilding the architecture needs beside the weights (configs, tokenizer). Default: nothing."""


@dataclass
class BackboneConfig(draccus.ChoiceRegistry):
    """Base of every backbone's options; the registered name is what `backbone.type` selects."""

    def build(self) -> Backbone:
        """Make the backbone that these options describe."""
        raise NotImplementedError
