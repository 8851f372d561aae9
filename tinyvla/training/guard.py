"""Early ends of a run: a loss that diverges, or a request of the user."""

import io
import math
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ..errors import UserError, one_line
from ..files import write_whole


class LossGuard:
    """Stops a run whose loss is not finite or whose mean is far above its first values, and saves the batch."""

    BEGINNING = 20  # steps whose mean loss is the reference
    DIVERGED = 3.0  # times that
    MEMORY = 0.95  # of the running mean

    def __init__(self, run_dir: Path):
        self.file = run_dir / "bad_batch.pt"
        self.beginning: list[float] = []
        self.mean = 0.0
        self.phase = 0

    def check(self, step: int, loss: float, batch: dict[str, Any], phase: int = 0) -> None:
        """Record a step's loss; every `phase` of training has its own reference.

        Raises UserError if training must stop.
        """
        if phase != self.phase:
            self.phase, self.beginning = phase, []
        if not math.isfinite(loss):
            self._stop(step, f"the loss is {loss}", batch)
        if len(self.beginning) < self.BEGINNING:
            self.beginning.append(loss)
            self.mean = sum(self.beginning) / len(self.beginning)
            return
        self.mean = self.MEMORY * self.mean + (1 - self.MEMORY) * loss
        if self.mean > self.DIVERGED * abs(sum(self.beginning)) / self.BEGINNING:
            self._stop(step, f"the loss diverges (its running mean is {self.mean:.3g})", batch)

    def _stop(self, step: int, fault: str, batch: dict[str, Any]) -> None:
        content = io.BytesIO()
        torch.save({"step": step, "batch": batch}, content)
        try:
            saved = f"is saved in {write_whole(self.file, content.getvalue())}"
        except OSError as error:
            saved = f"could not be saved in {self.file} ({one_line(error)})"
        raise UserError(
            f"{fault} at step {step}; the batch {saved}; "
            "start a new run with a lower trainer.lr, or with trainer.bf16=false"
        )

    def state_dict(self) -> dict[str, Any]:
        return {"beginning": self.beginning, "mean": self.mean, "phase": self.phase}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.beginning, self.mean, self.phase = list(state["beginning"]), state["mean"], state["phase"]


class StopRequest:
    """A request of the user to stop; False until there is one."""

    received = False


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Within the block Ctrl-C and SIGTERM (sent by clusters) stop a run after its step; a second one at once."""
    request = StopRequest()

    def ask(number: int, _: Any) -> None:
        if request.received:
            raise KeyboardInterrupt
        request.received = True
        print("\nstopping after this step, then saving; once more stops at once", file=sys.stderr)

    previous = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
