"""Where the time of a training step goes."""

import time
from collections import defaultdict

import torch


class StepTimer:
    """Seconds that the parts of steps took.

    Args:
        synchronize: wait for the GPU at the end of every part, so that each has its own time; slower.
    """

    def __init__(self, synchronize: bool = False):
        self.synchronize = synchronize and torch.cuda.is_available()
        self.restart()

    def restart(self) -> None:
        """Forget what was measured."""
        self.seconds: dict[str, float] = defaultdict(float)
        self._last = time.perf_counter()

    def lap(self, part: str | None) -> None:
        """Put down the time since the last call to a part of a step; None: it was none."""
        if self.synchronize:
            torch.cuda.synchronize()
        now = time.perf_counter()
        if part:
            self.seconds[part] += now - self._last
        self._last = now
