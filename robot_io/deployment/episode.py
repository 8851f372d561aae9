"""What an arm is to do, and how that went."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tinyvla.errors import UserError


@dataclass(frozen=True)
class Episode:
    """One episode of a run.

    instruction: what the policy is told. seconds: until it is cut; None: until somebody ends it. start_pose: (joints,)
    in LeRobot's units, where the arm is brought first; None: to the policy's first action. task: its name. seed: of the
    policy's random draws, and of the scene where there is one. lay_out: prepares the scene once the arm is there.
    success: whether the task is done now; asked after every tick, and True ends the episode; None: nobody can tell.
    """

    instruction: str
    seconds: float | None = None
    start_pose: Sequence[float] | None = None
    task: str = ""
    seed: int = 0
    lay_out: Callable[[], object] | None = None
    success: Callable[[], bool] | None = None

    def result(self, ended: str, ticks: int, rate_hz: float) -> dict[str, Any]:
        """For the report. ended: "done", "time", or what stopped the arm."""
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


def real_episodes(
    instruction: str | None, episodes: int, seconds: float | None, start_pose: Sequence[float] | None, seed: int
) -> list[Episode]:
    """Episodes of a real arm, which nobody lays out and judges. Raises UserError for what cannot be one."""
    if not instruction:
        raise UserError("instruction is not given; tell the policy what to do: instruction='pick up the cube'")
    if episodes < 1:
        raise UserError(f"episodes is {episodes}; ask for one or more")
    if seconds is not None and seconds <= 0:
        raise UserError(f"seconds is {seconds:g}; give a number above 0, or leave it out to go on until Ctrl-C")
    return [Episode(instruction, seconds, start_pose, seed=seed + index) for index in range(episodes)]
