"""Who is told of what happens in a run: the terminal here, the recording, the live view."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from ..safety import Reaction
from .episode import Episode


class Tick(NamedTuple):
    """One tick of the control loop; poses are (joints,) in LeRobot's units.

    due: monotonic seconds. observation: LeRobot's. position: where the arm was. sent: after the safety layer; in a dry
    run, what would have been sent. wanted: by the policy. intervention: whether a person had taken over. reaction: of
    the safety layer.
    """

    due: float
    observation: Mapping[str, Any]
    position: np.ndarray
    sent: np.ndarray
    wanted: np.ndarray
    intervention: bool
    reaction: Reaction


class Watcher(Protocol):
    """Told in the control loop's own time, so it hands on what takes long."""

    def begin(self, episode: Episode) -> None: ...

    def see(self, tick: Tick) -> None: ...

    def end(self, result: Mapping[str, Any]) -> None: ...

    def figures(self) -> dict[str, Any]:
        """For the report, at the very end."""


class Printer:
    """Prints a line an episode, and in a dry run a line a second with the pose that would be sent."""

    def __init__(self, joints: Sequence[str], poses: bool = False) -> None:
        self._joints, self._poses = list(joints), poses
        self._shown = -np.inf

    def begin(self, episode: Episode) -> None:
        self._shown = -np.inf
        print(f"{episode.task or 'episode'} (seed {episode.seed}): {episode.instruction}", flush=True)

    def see(self, tick: Tick) -> None:
        if self._poses and tick.due - self._shown >= 1:
            self._shown = tick.due
            pose = ", ".join(f"{joint} {value:.1f}" for joint, value in zip(self._joints, tick.sent, strict=True))
            print(f"  would send {pose}", flush=True)

    def end(self, result: Mapping[str, Any]) -> None:
        outcome = {True: "success", False: "no success", None: "ended"}[result["success"]]
        print(f"  {outcome} after {result['seconds']:.1f} s ({result['ended']})", flush=True)

    def figures(self) -> dict[str, Any]:
        return {}
