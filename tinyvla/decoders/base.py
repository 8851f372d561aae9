"""The interface of action decoders: token features and proprioception in, an action chunk out.

To add one: write a module beside this one with its options (a `DecoderConfig`) and its `ActionDecoder`, add a line to
`DecoderConfig.registry`, and a YAML file of the same name to configs/decoder/. A package installed beside this one adds
one through the entry points `tinyvla.decoders`.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import draccus
import torch
from torch import Tensor, nn

from ..backbones import Features
from ..choices import LazyChoices
from ..registry import Registry
from .denoiser import Denoiser


class Known(NamedTuple):
    """Actions that a new chunk continues.

    actions: (B, H, A).
    share: (H, 1) in [0, 1], weight of the known action at each step; the new chunk has the rest.
    """

    actions: Tensor
    share: Tensor


class ActionDecoder(nn.Module):
    """A conditional generative model of action chunks.

    `loss` trains a decoder and `sample` acts with it. Actions are in the normalised space of the policy's
    pre-processor (policies/tinyvla/processor_tinyvla.py), roughly [-1, 1]. Subclasses set the attributes, and implement
    `loss` and `denoise`.

    Attributes:
        config: the decoder's options.
        condition: features and proprioception to one vector.
        network: the denoiser.
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

        With `known` they are inpainted by replacement: after every denoising step, `known.share` of each action is
        replaced by the known action with the noise of that step. It costs nothing, and the network fits the other
        actions to it. The shares are those of real-time chunking (Black et al., arXiv 2506.07339, section 3.2).
        """
        raise NotImplementedError

    def use_sampler(self, config: Any) -> None:
        """Sample with the settings of `config`, which may differ from the decoder's own in the sampler only."""
        self.config = config


@dataclass
class DecoderConfig(LazyChoices, draccus.ChoiceRegistry):
    """Base of every decoder's options; `decoder.type` selects one by name."""

    registry: ClassVar = Registry(
        "decoder",
        "tinyvla.decoders",
        {
            "diffusion": "tinyvla.decoders.diffusion:DiffusionConfig",
            "flow": "tinyvla.decoders.flow:FlowConfig",
        },
    )

    @property
    def sampler_name(self) -> str:
        """Name of the sampler, for descriptions of a policy."""
        raise NotImplementedError

    def build(self, hidden_size: int, state_dim: int, action_dim: int, chunk_size: int) -> ActionDecoder:
        """Make the decoder for features of width `hidden_size` and action chunks (chunk_size, action_dim)."""
        raise NotImplementedError


class GlobalCondition(nn.Module):
    """Features and proprioception as one vector: the condition of the released TinyVLA's decoder.

    Mean over all hidden tokens -> LayerNorm -> concatenated with proprioception -> linear: (B, D) again.
    """

    def __init__(self, hidden_size: int, state_dim: int):
        super().__init__()
        self.norm = nn.LayerNorm(hidden_size)
        self.combine = nn.Linear(hidden_size + state_dim, hidden_size)

    def forward(self, features: Features, state: Tensor) -> Tensor:
        pooled = features.mean()
        return self.combine(torch.cat([self.norm(pooled), state.to(pooled.dtype)], dim=-1))


def masked_mse(prediction: Tensor, target: Tensor, is_pad: Tensor) -> Tensor:
    """Mean squared error over the steps that are not padding, in float32: (B, H, A), (B, H, A), (B, H) -> scalar."""
    error = (prediction.float() - target.float()).square().mean(-1)
    keep = (~is_pad).to(error.dtype)
    return (error * keep).sum() / keep.sum().clamp(min=1)
