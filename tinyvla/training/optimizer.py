"""Learning-rate schedule and averaged weights of a run."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from diffusers.training_utils import EMAModel
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import get_cosine_schedule_with_warmup


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
