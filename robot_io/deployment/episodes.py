"""Episodes of a run, and the observers of their ticks: terminal, recording, live view."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from tinyvla.arms.episode import Episode
from tinyvla.errors import UserError
from tinyvla.intervals import wilson_interval

from ..safety import Reaction


def real_episodes(
    instruction: str | None, episodes: int, seconds: float | None, start_pose: Sequence[float] | None, seed: int
) -> list[Episode]:
    """Episodes of a real arm, without a scene to prepare or a judge of success.

    Raises UserError for a missing instruction, no episodes or no time.
    """
    if not instruction:
        raise UserError("instruction is not given; tell the policy what to do: instruction='pick up the cube'")
    if episodes < 1:
        raise UserError(f"episodes is {episodes}; ask for one or more")
    if seconds is not None and seconds <= 0:
        raise UserError(f"seconds is {seconds:g}; give a number above 0, or leave it out to go on until Ctrl-C")
    return [
        Episode(instruction, seconds, start_pose, seed=seed + index, number=index + 1, count=episodes)
        for index in range(episodes)
    ]


def count_successes(episodes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Successes, judged episodes and the 95% interval of the success rate; empty if none was judged."""
    outcomes = [episode["success"] for episode in episodes if episode["success"] is not None]
    if not outcomes:
        return {}
    successes, count = sum(outcomes), len(outcomes)
    return {"successes": successes, "judged": count, "ci95": list(wilson_interval(successes, count))}


class Tick(NamedTuple):
    """One tick of the control loop; poses are (joints,) in LeRobot's units.

    Attributes:
        due: monotonic seconds.
        observation: of LeRobot.
        position: of the arm.
        sent: pose after the safety layer; in a dry run, the pose that would have been sent.
        policy_pose: command of the policy.
        intervention: True if a person had taken over.
        reaction: of the safety layer.
        torque: share of their greatest torque that the servos may use.
    """

    due: float
    observation: Mapping[str, Any]
    position: np.ndarray
    sent: np.ndarray
    policy_pose: np.ndarray
    intervention: bool
    reaction: Reaction
    torque: float = 1.0


class EpisodeObserver(Protocol):
    """Observer of a run. It is called in the control loop's thread, so anything slow belongs in another one."""

    def begin(self, episode: Episode) -> None: ...

    def observe(self, tick: Tick) -> None: ...

    def end(self, result: Mapping[str, Any]) -> None: ...

    def report(self) -> dict[str, Any]:
        """Entries for the run's report, when all episodes are over."""


class Printer:
    """Prints one line per episode, and in a dry run one line per second with the pose that would be sent."""

    def __init__(self, joints: Sequence[str], poses: bool = False) -> None:
        self._joints, self._poses = list(joints), poses
        self._printed_at = -np.inf

    def begin(self, episode: Episode) -> None:
        self._printed_at = -np.inf
        number = f" {episode.number} of {episode.count}" if episode.count > 1 else ""
        print(f"{episode.task or 'episode'}{number} (seed {episode.seed}): {episode.instruction}", flush=True)

    def observe(self, tick: Tick) -> None:
        if self._poses and tick.due - self._printed_at >= 1:
            self._printed_at = tick.due
            pose = ", ".join(f"{joint} {value:.1f}" for joint, value in zip(self._joints, tick.sent, strict=True))
            print(f"  would send {pose}", flush=True)

    def end(self, result: Mapping[str, Any]) -> None:
        outcome = {True: "success", False: "no success", None: "not judged"}[result["success"]]
        print(f"  {outcome} after {result['seconds']:.1f} s ({result['ended']})", flush=True)

    def report(self) -> dict[str, Any]:
        return {}
