"""Plain training loop with a one-cycle schedule and no checkpoints, for benchmarks that train many small models."""

import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from tinyvla.training import Trainable


def train(trainable: Trainable, trainer: Mapping[str, Any]) -> None:
    """Train for `steps` with a peak learning rate of `lr` and `weight_decay`."""
    optimizer = trainable.make_optimizer(trainer["lr"], trainer["weight_decay"])
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, trainer["lr"], trainer["steps"], pct_start=0.1)
    trainable.module.train()
    started = time.perf_counter()
    with ThreadPoolExecutor(1) as loader:
        upcoming = loader.submit(trainable.batch, 0)
        for step in range(trainer["steps"]):
            batch = upcoming.result()
            upcoming = loader.submit(trainable.batch, step + 1)
            loss, _ = trainable.module(batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            if step % 50 == 0:
                print(f"step {step}, loss {loss:.3f}, {time.perf_counter() - started:.0f} s", file=sys.stderr)
