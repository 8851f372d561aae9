"""Diffusion action decoder: the released TinyVLA's (arXiv 2409.12514, section 3.2), with any diffusers scheduler."""

import difflib
from dataclasses import dataclass, field
from typing import Any

import diffusers
import torch
from torch import Tensor

from ..backbones import Features
from .base import ActionDecoder, DecoderConfig, GlobalCondition, Known, masked_mse
from .denoiser import DenoiserConfig
from .unet1d import UNet1dConfig

PREDICTIONS = ("epsilon", "sample", "v_prediction")


@DecoderConfig.register_subclass("diffusion")
@dataclass
class DiffusionConfig(DecoderConfig):
    """Options of the diffusion decoder; the defaults are the released TinyVLA's.

    Args:
        network: the denoiser, `unet` or `dit`.
        scheduler: class name of any diffusers noise scheduler (DDIMScheduler, DPMSolverMultistepScheduler …).
        scheduler_kwargs: further arguments of that scheduler.
        train_steps: diffusion steps that training noises with.
        inference_steps: denoising steps a chunk.
        prediction_type: what the network predicts, one of PREDICTIONS.
        noise_repeats: noise draws for each observation of a batch. The backbone runs once for all of them, so more
            draws cost little and make the gradient less noisy.
    """

    network: DenoiserConfig = field(default_factory=UNet1dConfig)
    scheduler: str = "DDIMScheduler"
    scheduler_kwargs: dict[str, Any] = field(default_factory=dict)
    train_steps: int = 100
    inference_steps: int = 10
    prediction_type: str = "epsilon"
    noise_repeats: int = 1

    def __post_init__(self) -> None:
        if self.prediction_type not in PREDICTIONS:
            raise ValueError(f"prediction_type is '{self.prediction_type}'; use {', '.join(PREDICTIONS)}")
        if not 1 <= self.inference_steps <= self.train_steps:
            raise ValueError(
                f"inference_steps must lie between 1 and train_steps {self.train_steps}, got {self.inference_steps}"
            )
        self.make_sampler()  # a scheduler that cannot be is refused before anything else is made

    @property
    def schedule(self) -> dict[str, Any]:
        """How much noise each training step has, the same in training and sampling."""
        return {
            "num_train_timesteps": self.train_steps,
            "beta_schedule": "squaredcos_cap_v2",
            "prediction_type": self.prediction_type,
        }

    def make_sampler(self) -> Any:
        """The scheduler that turns noise into chunks. Raises ValueError if there is none of that name and arguments."""
        scheduler_class = getattr(diffusers, self.scheduler, None)
        if not (isinstance(scheduler_class, type) and issubclass(scheduler_class, diffusers.SchedulerMixin)):
            known = [name for name in dir(diffusers) if name.endswith("Scheduler") and not name.startswith("Flax")]
            near = difflib.get_close_matches(self.scheduler, known) or ["DDIMScheduler"]
            raise ValueError(f"'{self.scheduler}' is no scheduler of diffusers; did you mean {' or '.join(near)}?")
        options = scheduler_class().config
        # Estimates of a clean chunk may leave the normalised range, so they are clipped (thresholding at 1 clips).
        # The last training steps are all but pure noise, where a solver would blow the error of a predicted noise up:
        # "leading" leaves them out. Few steps would then begin far from the noise that a chunk begins as, so a network
        # that predicts something better behaved begins at the last step.
        spacing = "leading" if self.prediction_type == "epsilon" or self.inference_steps >= 10 else "trailing"
        clip = {"clip_sample": True} if "clip_sample" in options else {"thresholding": True, "sample_max_value": 1.0}
        preferred = {key: value for key, value in (clip | {"timestep_spacing": spacing}).items() if key in options}
        try:
            sampler = scheduler_class(**self.schedule, **preferred | dict(self.scheduler_kwargs))
        except (TypeError, NotImplementedError) as error:
            raise ValueError(f"{self.scheduler} does not suit action chunks: {error}; use DDIMScheduler") from error
        if sampler.config.get("thresholding") and sampler.config.sample_max_value == 1:
            # It would sort every estimate for a quantile that the limit makes irrelevant.
            sampler._threshold_sample = lambda sample: sample.clamp(-1, 1)
        return sampler

    def build(self, hidden_size: int, state_dim: int, action_dim: int, chunk_size: int) -> "DiffusionDecoder":
        return DiffusionDecoder(self, hidden_size, state_dim, action_dim, chunk_size)


class DiffusionDecoder(ActionDecoder):
    """Learns to undo the noise that the scheduler adds to an action chunk, given the features."""

    def __init__(self, config: DiffusionConfig, hidden_size: int, state_dim: int, action_dim: int, chunk_size: int):
        super().__init__()
        self.config = config
        self.condition = GlobalCondition(hidden_size, state_dim)
        self.network = config.network.build(action_dim, chunk_size, hidden_size)
        self.train_scheduler = diffusers.DDPMScheduler(**config.schedule)
        self.sampler = config.make_sampler()

    def loss(self, features: Features, state: Tensor, actions: Tensor, is_pad: Tensor) -> Tensor:
        repeats = self.config.noise_repeats
        condition = self.condition(features, state).repeat_interleave(repeats, 0)
        actions, is_pad = actions.repeat_interleave(repeats, 0), is_pad.repeat_interleave(repeats, 0)
        noise = torch.randn_like(actions)
        steps = torch.randint(self.config.train_steps, (len(actions),), device=actions.device)
        noisy = self.train_scheduler.add_noise(actions, noise, steps)
        target = {
            "epsilon": lambda: noise,
            "sample": lambda: actions,
            "v_prediction": lambda: self.train_scheduler.get_velocity(actions, noise, steps),
        }[self.config.prediction_type]()
        return masked_mse(self.network(noisy, steps, condition), target, is_pad)

    def use_sampler(self, config: DiffusionConfig) -> None:
        self.config, self.sampler = config, config.make_sampler()

    def denoise(self, condition: Tensor, noise: Tensor, known: Known | None = None) -> Tensor:
        self.sampler.set_timesteps(self.config.inference_steps)  # a multi-step solver forgets the chunk before, too
        steps = self.sampler.timesteps
        modulations = self.network.modulate_all(steps.to(noise.device), condition)
        actions = noise * self.sampler.init_noise_sigma
        for step, following, modulation in zip(steps, [*steps[1:], None], modulations, strict=True):
            noisy = self.sampler.scale_model_input(actions, step).to(condition.dtype)
            output = self.network.denoise(noisy, modulation).to(actions.dtype)
            actions = self.sampler.step(output, step, actions).prev_sample
            if known is not None:
                on_the_way = known.actions
                if following is not None:
                    on_the_way = self.sampler.add_noise(known.actions, noise, following.reshape(1))
                actions = torch.lerp(actions, on_the_way, known.share)
        return actions
