"""The action-decoder seam: token features and proprioception in, an action chunk out."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import draccus
import torch
from torch import Tensor, nn

from ..backbones import Features
from .denoiser import Denoiser


class Known(NamedTuple):
    """What a new chunk is to continue: actions (B, H, A), and how much of each step is theirs, (H, 1) in [0, 1]."""

    actions: Tensor
    share: Tensor


class ActionDecoder(nn.Module):
    """A conditional generative model of action chunks.

    Every decoder learns from `loss` and acts through `sample`. Actions are in the normalised space of the policy's
    pre-processor, roughly [-1, 1]. Subclasses set what is annotated here, and implement `loss` and `denoise`.
    """

    config: Any
    condition: "GlobalCondition"
    network: Denoiser

    def loss(self, features: Features, state: Tensor, actions: Tensor, is_pad: Tensor) -> Tensor:
        """Scalar training loss.

        Args:
            features: token features of B observations.
            state: proprioception (B, S).
            actions: action chunks (B, H, A).
            is_pad: (B, H) bool, True where a chunk reaches past its episode's end; those steps carry no loss.
        """
        raise NotImplementedError

    def sample(self, features: Features, state: Tensor, noise: Tensor, known: Known | None = None) -> Tensor:
        """Denoise `noise` (B, H, A) into action chunks (B, H, A), one for each of B observations; see `denoise`."""
        return self.denoise(self.condition(features, state), noise, known)

    def denoise(self, condition: Tensor, noise: Tensor, known: Known | None = None) -> Tensor:
        """The second half of `sample`: conditions (B, D) and noise (B, H, A) to action chunks (B, H, A).

        With `known` they are inpainted by replacement: after every denoising step, its share of each action is set to
        what lies on the way from `noise` to the known one. It costs nothing, and the network fits the rest to it. The
        shares are those of real-time chunking (Black et al., arXiv 2506.07339, section 3.2).
        """
        raise NotImplementedError

    def use_sampler(self, config: Any) -> None:
        """Sample from now on as `config` says, which differs from the decoder's own in nothing but the sampler."""
        self.config = config


@dataclass
class DecoderConfig(draccus.ChoiceRegistry):
    """Base of every decoder's options; the registered name is what `decoder.type` selects."""

    def build(self, hidden_size: int, state_dim: int, action_dim: int, chunk_size: int) -> ActionDecoder:
        """Make the decoder for features of width `hidden_size` and action chunks (chunk_size, action_dim)."""
        raise NotImplementedError


class GlobalCondition(nn.Module):
    """Features and proprioception as one vector, as the released TinyVLA conditions its decoder.

    Mean over all hidden tokens -> LayerNorm -> concatenated with proprioception -> linear: (B, D) again.
    """

    def __init__(self, hidden_size: int, state_dim: int):
        super().__init__()
        self.norm = nn.LayerNorm(hidden_size)
        self.combine = nn.Linear(hidden_size + state_dim, hidden_size)

    def forward(self, features: Features, state: Tensor) -> Tensor:
        weight = features.mask.to(features.tokens.dtype).unsqueeze(-1)
        pooled = (features.tokens * weight).sum(1) / weight.sum(1)
        return self.combine(torch.cat([self.norm(pooled), state.to(pooled.dtype)], dim=-1))


def masked_mse(prediction: Tensor, target: Tensor, is_pad: Tensor) -> Tensor:
    """Mean squared error over the steps that are not padding, in float32: (B, H, A), (B, H, A), (B, H) -> scalar."""
    error = (prediction.float() - target.float()).square().mean(-1)
    keep = (~is_pad).to(error.dtype)
    return (error * keep).sum() / keep.sum().clamp(min=1)
