"""Flow-matching action decoder (Lipman et al., arXiv 2210.02747): a straight path from noise to the action chunk."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..backbones import Features
from ..ranges import MAX_STEPS, check_range
from .base import ActionDecoder, DecoderConfig, GlobalCondition, Known, masked_mse
from .denoiser import DenoiserConfig
from .unet1d import UNet1dConfig


@DecoderConfig.register_subclass("flow")
@dataclass
class FlowConfig(DecoderConfig):
    """Options of the flow decoder.

    Args:
        network: the velocity network, `unet` or `dit`.
        inference_steps: Euler steps from noise (t = 0) to actions (t = 1).
        noise_repeats: noise draws per observation of a batch; the backbone runs once for all of them.
    """

    network: DenoiserConfig = field(default_factory=UNet1dConfig)
    inference_steps: int = 10
    noise_repeats: int = 4

    def __post_init__(self) -> None:
        check_range(self, "inference_steps", "noise_repeats", low=1, high=MAX_STEPS)

    @property
    def sampler_name(self) -> str:
        return "Euler steps of the flow"

    def build(self, hidden_size: int, state_dim: int, action_dim: int, chunk_size: int) -> "FlowDecoder":
        return FlowDecoder(self, hidden_size, state_dim, action_dim, chunk_size)


class FlowDecoder(ActionDecoder):
    """Predicts the velocity of x_t = (1 - t) * noise + t * actions, which is actions - noise (equation 23)."""

    # The networks' sinusoidal embeddings are for step numbers up to about a thousand, not for t in [0, 1].
    TIME_SCALE = 1000.0

    def __init__(self, config: FlowConfig, hidden_size: int, state_dim: int, action_dim: int, chunk_size: int):
        super().__init__()
        self.config = config
        self.condition = GlobalCondition(hidden_size, state_dim)
        self.network = config.network.build(action_dim, chunk_size, hidden_size)

    def loss(self, features: Features, state: Tensor, actions: Tensor, is_pad: Tensor) -> Tensor:
        repeats = self.config.noise_repeats
        condition = self.condition(features, state).repeat_interleave(repeats, 0)
        actions, is_pad = actions.repeat_interleave(repeats, 0), is_pad.repeat_interleave(repeats, 0)
        noise = torch.randn_like(actions)
        time = torch.rand(len(actions), 1, 1, device=actions.device, dtype=actions.dtype)
        point = torch.lerp(noise, actions, time)
        velocity = self.network(point, time.flatten() * self.TIME_SCALE, condition)
        return masked_mse(velocity, actions - noise, is_pad)

    def denoise(self, condition: Tensor, noise: Tensor, known: Known | None = None) -> Tensor:
        actions, steps = noise, self.config.inference_steps
        times = torch.arange(steps, device=noise.device) / steps * self.TIME_SCALE
        for step, modulation in enumerate(self.network.modulate_all(times, condition)):
            velocity = self.network.denoise(actions.to(condition.dtype), modulation)
            actions = actions + velocity.to(actions.dtype) / steps
            if known is not None:
                noisy_known = torch.lerp(noise, known.actions, (step + 1) / steps)
                actions = torch.lerp(actions, noisy_known, known.share)
        return actions
