"""The interface of a decoder's network: predicts noise or velocity from a noisy chunk, a step and a condition."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import draccus
from torch import Tensor, nn

from ..choices import LazyChoices
from ..registry import Registry


class Denoiser(nn.Module):
    """Predicts the noise, the velocity or the clean chunk: (B, H, A), steps (B,), condition (B, D) -> (B, H, A).

    `modulate` depends on step and condition only, `denoise` on the noisy chunk too. A sampler knows its steps in
    advance, so it calls `modulate` once per chunk instead of once per step.
    """

    def modulate(self, steps: Tensor, condition: Tensor) -> list[Tensor]:
        """Scales and shifts for N pairs of a step (N,) and a condition (N, D); each tensor has N rows."""
        raise NotImplementedError

    def denoise(self, actions: Tensor, modulation: Sequence[Tensor]) -> Tensor:
        """The prediction (B, H, A) for noisy actions (B, H, A) and the B rows of `modulate` that go with them."""
        raise NotImplementedError

    def forward(self, actions: Tensor, steps: Tensor, condition: Tensor) -> Tensor:
        return self.denoise(actions, self.modulate(steps, condition))

    def modulate_all(self, steps: Tensor, condition: Tensor) -> list[tuple[Tensor, ...]]:
        """Modulation for each of K steps (K,), the same for all B conditions (B, D), computed in one batch."""
        count, batch = len(steps), len(condition)
        rows = self.modulate(steps.repeat_interleave(batch), condition.repeat(count, 1))
        return list(zip(*(row.chunk(count) for row in rows), strict=True))


@dataclass
class DenoiserConfig(LazyChoices, draccus.ChoiceRegistry):
    """Base of every denoiser's options; `decoder.network.type` selects one by name."""

    registry: ClassVar = Registry(
        "denoiser",
        "tinyvla.denoisers",
        {"unet": "tinyvla.decoders.unet1d:UNet1dConfig", "dit": "tinyvla.decoders.dit:DiTConfig"},
    )

    def build(self, action_dim: int, chunk_size: int, condition_dim: int) -> Denoiser:
        """Make the denoiser of action chunks (chunk_size, action_dim) for conditions of width `condition_dim`."""
        raise NotImplementedError
