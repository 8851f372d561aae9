"""Episode that an arm plays: its instruction, start, end and success."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Episode:
    """One episode of an arm.

    Args:
        instruction: of the policy.
        seconds: until the episode is cut; None: until a person ends it.
        start_pose: (joints,) in LeRobot's units, to which the arm moves first; None: the policy's first action.
        task: its name.
        seed: of the policy's random draws, and of the scene if it is simulated.
        lay_out: prepares the scene once the arm is at its start pose.
        success: returns whether the task is done. It is called after every tick, and True ends the episode. None:
            success is not known.
        number: of the run's `count` episodes, from 1.
    """

    instruction: str
    seconds: float | None = None
    start_pose: Sequence[float] | None = None
    task: str = ""
    seed: int = 0
    lay_out: Callable[[], object] | None = None
    success: Callable[[], bool] | None = None
    number: int = 1
    count: int = 1

    def result(self, ended: str, ticks: int, rate_hz: float) -> dict[str, Any]:
        """Entry of the report. ended: "done", "time", "person", or the reason for which the arm was stopped."""
        success = None if self.success is None else ended == "done"
        return {
            "task": self.task,
            "instruction": self.instruction,
            "seed": self.seed,
            "success": success,
            "ticks": ticks,
            "seconds": round(ticks / rate_hz, 2),
            "ended": ended,
        }
