"""Optimizer, learning-rate schedule and averaged weights of a run."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from diffusers.training_utils import EMAModel
from lerobot.policies import PreTrainedPolicy
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import get_cosine_schedule_with_warmup


def make_optimizer(policy: PreTrainedPolicy, trainer: Mapping[str, Any]) -> Optimizer:
    """The policy's own optimizer and parameter groups at the run's rate and weight decay."""
    policy.config.optimizer_lr = trainer["lr"]  # groups whose rate is a multiple of it follow
    preset = replace(policy.config.get_optimizer_preset(), lr=trainer["lr"], weight_decay=trainer["weight_decay"])
    optimizer = preset.build(policy.get_optim_params())
    for group in optimizer.param_groups:
        if "fused" in group:
            group["fused"] = True  # one pass over each parameter: a third of the time on a CPU
    return optimizer


def make_schedule(optimizer: Optimizer, trainer: Mapping[str, Any]) -> LRScheduler:
    """Every group's rate rises linearly and falls to zero along a cosine."""
    warmup = round(trainer["warmup_ratio"] * trainer["steps"])
    return get_cosine_schedule_with_warmup(optimizer, warmup, trainer["steps"])


def make_ema(parameters: list[nn.Parameter], decay: float) -> EMAModel:
    """Exponential moving average of weights. Its first steps average over fewer, so that the start is forgotten."""
    return EMAModel(parameters, decay=decay, foreach=True)


@contextmanager
def averaged_weights(parameters: list[nn.Parameter], ema: EMAModel) -> Iterator[None]:
    """Within the block the parameters have the averaged values."""
    ema.store(parameters)
    ema.copy_to(parameters)
    try:
        yield
    finally:
        ema.restore(parameters)
