"""Learning-rate schedule and averaged weights of a run."""

from collections.abc import Iterator
from contextlib import contextmanager

from diffusers.training_utils import EMAModel
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import get_cosine_schedule_with_warmup


def make_schedule(optimizer: Optimizer, steps: int, warmup_ratio: float) -> LRScheduler:
    """Schedule of the learning rate: rises linearly for a share of the steps, then falls to zero along a cosine."""
    return get_cosine_schedule_with_warmup(optimizer, round(warmup_ratio * steps), steps)


def make_ema(parameters: list[nn.Parameter], decay: float) -> EMAModel:
    """Exponential moving average of weights, with a lower decay in the first steps, so that it forgets the start."""
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
