"""An arm whose pictures are looked at before they are believed: too old, or the same one again and again."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from lerobot.robots import Robot

_MOVED = 10.0  # LeRobot's units: an arm that has moved so far looks different
_COARSE = 8  # every so many pixels are compared first


class FreshImageRobot:
    """Stands in for a connected arm; a reading with a picture that cannot be believed is one that has failed.

    Args:
        arm: its cameras' `latest_timestamp`, where they have one, is on time.perf_counter's clock.
        oldest_s: a picture may be so old, and may stay the same for so long while the arm moves.
        clock: as time.perf_counter.
    """

    def __init__(self, arm: Robot, oldest_s: float, clock: Callable[[], float] = time.perf_counter) -> None:
        self._arm, self._oldest_s, self._clock = arm, oldest_s, clock
        self._joints = [name for name, kind in arm.observation_features.items() if not isinstance(kind, tuple)]
        self._seen: dict[str, tuple[np.ndarray, float, np.ndarray]] = {}  # picture, since when, where the arm was

    def get_observation(self) -> dict[str, Any]:
        """Raises TimeoutError for a picture that is too old or does not change, besides what the arm raises."""
        observation = self._arm.get_observation()
        now = self._clock()
        position = np.array([observation[joint] for joint in self._joints], dtype=float)
        for name, camera in getattr(self._arm, "cameras", {}).items():
            if name in observation:
                self._look(name, observation[name], getattr(camera, "latest_timestamp", None), now, position)
        return observation

    def send_action(self, action: dict[str, Any]) -> dict[str, Any]:
        return self._arm.send_action(action)

    def _look(self, name: str, picture: np.ndarray, taken: float | None, now: float, position: np.ndarray) -> None:
        if taken is not None and now - taken > self._oldest_s:
            raise TimeoutError(f"the newest picture of {name} is {now - taken:.1f} s old")
        if name not in self._seen or not _same(picture, self._seen[name][0]):
            self._seen[name] = picture, now, position
            return
        _, since, then = self._seen[name]
        if now - since > self._oldest_s and np.abs(position - then).max() > _MOVED:
            raise TimeoutError(f"{name} has given the same picture for {now - since:.1f} s while the arm moved")


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two pictures are alike to the bit. Real cameras' never are, and most differ in the first pixels."""
    few = slice(None, None, _COARSE)
    return np.array_equal(one[few, few], other[few, few]) and np.array_equal(one, other)


class DryRunRobot:
    """Stands in for a connected arm in a dry run: what would be sent to it goes nowhere."""

    def __init__(self, arm: Robot) -> None:
        self._arm = arm

    def get_observation(self) -> dict[str, Any]:
        return self._arm.get_observation()

    def send_action(self, action: dict[str, Any]) -> dict[str, Any]:
        return action
