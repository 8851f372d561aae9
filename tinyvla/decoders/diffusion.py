"""Diffusion action decoder: the released TinyVLA's (arXiv 2409.12514, section 3.2), with any diffusers scheduler."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..backbones import Features
from ..errors import did_you_mean
from ..ranges import MAX_STEPS, check_range
from .base import ActionDecoder, DecoderConfig, GlobalCondition, Known, masked_mse
from .denoiser import DenoiserConfig
from .unet1d import UNet1dConfig

PREDICTIONS = ("epsilon", "sample", "v_prediction")


@DecoderConfig.register_subclass("diffusion")
@dataclass
class DiffusionConfig(DecoderConfig):
    """Options of the diffusion decoder. The released TinyVLA predicts `epsilon` and has the U-Net 256, 512, 1024.

    Args:
        network: the denoiser, `unet` or `dit`.
        scheduler: class name of any diffusers noise scheduler (DDIMScheduler, DPMSolverMultistepScheduler …).
        scheduler_kwargs: further arguments of that scheduler.
        train_steps: diffusion steps of training.
        inference_steps: denoising steps per chunk.
        prediction_type: the network's prediction, one of PREDICTIONS. `sample`, the clean chunk, needs far fewer
            training steps from scratch than `epsilon`.
        noise_repeats: noise draws per observation of a batch. The backbone runs once for all of them, so more draws
            cost little and make the gradient less noisy.
    """

    network: DenoiserConfig = field(default_factory=UNet1dConfig)
    scheduler: str = "DDIMScheduler"
    scheduler_kwargs: dict[str, Any] = field(default_factory=dict)
    train_steps: int = 100
    inference_steps: int = 10
    prediction_type: str = "sample"
    noise_repeats: int = 4

    def __post_init__(self) -> None:
        check_range(self, "train_steps", "noise_repeats", low=1, high=MAX_STEPS)
        if self.prediction_type not in PREDICTIONS:
            raise ValueError(f"prediction_type is '{self.prediction_type}'; use {', '.join(PREDICTIONS)}")
        if not 1 <= self.inference_steps <= self.train_steps:
            raise ValueError(
                f"inference_steps must lie between 1 and train_steps {self.train_steps}, got {self.inference_steps}"
            )
        self.make_sampler()  # raises for an unsuitable scheduler before the model is built

    @property
    def schedule(self) -> dict[str, Any]:
        """Noise of each training step, the same in training and sampling."""
        return {
            "num_train_timesteps": self.train_steps,
            "beta_schedule": "squaredcos_cap_v2",
            "prediction_type": self.prediction_type,
        }

    @property
    def sampler_name(self) -> str:
        return self.scheduler

    def make_sampler(self) -> Any:
        """The scheduler that samples chunks. Raises ValueError for an unknown name or unsuitable arguments."""
        import diffusers  # a second to import

        scheduler_class = getattr(diffusers, self.scheduler, None)
        if not (isinstance(scheduler_class, type) and issubclass(scheduler_class, diffusers.SchedulerMixin)):
            names = [name for name in dir(diffusers) if name.endswith("Scheduler") and not name.startswith("Flax")]
            raise ValueError(
                f"'{self.scheduler}' is not a scheduler of diffusers; {did_you_mean(self.scheduler, names)}"
            )
        options = scheduler_class().config
        # Estimates of a clean chunk may leave the normalised range, so they are clipped (thresholding at 1 clips).
        # The last training steps are almost pure noise, where a solver multiplies the error of a predicted noise:
        # "leading" leaves them out. With few steps the first one would then be far from the noise that sampling begins
        # with, so networks that predict something else than noise begin at the last step.
        spacing = "leading" if self.prediction_type == "epsilon" or self.inference_steps >= 10 else "trailing"
        clip = {"clip_sample": True} if "clip_sample" in options else {"thresholding": True, "sample_max_value": 1.0}
        preferred = {key: value for key, value in (clip | {"timestep_spacing": spacing}).items() if key in options}
        try:
            sampler = scheduler_class(**self.schedule, **preferred | dict(self.scheduler_kwargs))
        except (TypeError, NotImplementedError) as error:
            raise ValueError(f"{self.scheduler} does not suit action chunks: {error}; use DDIMScheduler") from error
        if sampler.config.get("thresholding") and sampler.config.sample_max_value == 1:
            # The scheduler would sort every estimate for a quantile that has no effect with this limit.
            sampler._threshold_sample = lambda sample: sample.clamp(-1, 1)
        return sampler

    def build(self, hidden_size: int, state_dim: int, action_dim: int, chunk_size: int) -> "DiffusionDecoder":
        return DiffusionDecoder(self, hidden_size, state_dim, action_dim, chunk_size)


class DiffusionDecoder(ActionDecoder):
    """Removes the noise that the scheduler adds to an action chunk, given the features."""

    def __init__(self, config: DiffusionConfig, hidden_size: int, state_dim: int, action_dim: int, chunk_size: int):
        from diffusers import DDPMScheduler

        super().__init__()
        self.config = config
        self.condition = GlobalCondition(hidden_size, state_dim)
        self.network = config.network.build(action_dim, chunk_size, hidden_size)
        self.train_scheduler = DDPMScheduler(**config.schedule)
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
        self.sampler.set_timesteps(self.config.inference_steps)  # which also resets a multi-step solver
        steps = self.sampler.timesteps
        modulations = self.network.modulate_all(steps.to(noise.device), condition)
        actions = noise * self.sampler.init_noise_sigma
        for step, next_step, modulation in zip(steps, [*steps[1:], None], modulations, strict=True):
            noisy = self.sampler.scale_model_input(actions, step).to(condition.dtype)
            output = self.network.denoise(noisy, modulation).to(actions.dtype)
            actions = self.sampler.step(output, step, actions).prev_sample
            if known is not None:
                noisy_known = known.actions
                if next_step is not None:
                    noisy_known = self.sampler.add_noise(known.actions, noise, next_step.reshape(1))
                actions = torch.lerp(actions, noisy_known, known.share)
        return actions
