"""Time of the parts of a training step."""

import time
from collections import defaultdict

import torch


class StepTimer:
    """Seconds of the parts of steps.

    Args:
        synchronize: wait for the GPU at the end of every part, for exact times; slower.
    """

    def __init__(self, synchronize: bool = False):
        self.synchronize = synchronize and torch.cuda.is_available()
        self.restart()

    def restart(self) -> None:
        """Reset all times."""
        self.seconds: dict[str, float] = defaultdict(float)
        self._last = time.perf_counter()

    def lap(self, part: str | None) -> None:
        """Add the time since the last call to a part of a step; None: to no part."""
        if self.synchronize:
            torch.cuda.synchronize()
        now = time.perf_counter()
        if part:
            self.seconds[part] += now - self._last
        self._last = now
