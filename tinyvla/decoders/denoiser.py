"""The network seam inside a decoder: what predicts noise or velocity from a noisy chunk, a step and a condition."""

from dataclasses import dataclass

import draccus
from torch import nn


@dataclass
class DenoiserConfig(draccus.ChoiceRegistry):
    """Base of every denoiser's options; the registered name is what `decoder.network.type` selects."""

    def build(self, action_dim: int, chunk_size: int, condition_dim: int) -> nn.Module:
        """Make a module (noisy actions (B, H, A), steps (B,), condition (B, D)) -> (B, H, A)."""
        raise NotImplementedError
