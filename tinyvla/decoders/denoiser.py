"""The network seam inside a decoder: what predicts noise or velocity from a noisy chunk, a step and a condition."""

from collections.abc import Sequence
from dataclasses import dataclass

import draccus
from torch import Tensor, nn


class Denoiser(nn.Module):
    """Predicts the noise, the velocity or the clean chunk: (B, H, A), steps (B,), condition (B, D) -> (B, H, A).

    What depends on step and condition alone (`modulate`) is apart from what depends on the noisy chunk (`denoise`), so
    that a sampler, whose steps are known from the start, computes the former once a chunk instead of once a step.
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
        """What `denoise` needs at each of K steps (K,), the same for all B conditions (B, D), from one batch."""
        count, batch = len(steps), len(condition)
        rows = self.modulate(steps.repeat_interleave(batch), condition.repeat(count, 1))
        return list(zip(*(row.chunk(count) for row in rows), strict=True))


@dataclass
class DenoiserConfig(draccus.ChoiceRegistry):
    """Base of every denoiser's options; the registered name is what `decoder.network.type` selects."""

    def build(self, action_dim: int, chunk_size: int, condition_dim: int) -> Denoiser:
        """Make the denoiser of action chunks (chunk_size, action_dim) for conditions of width `condition_dim`."""
        raise NotImplementedError
