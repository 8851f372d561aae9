"""Moving an arm slowly to a pose before a policy takes over, and back when it is done."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tinyvla.errors import UserError

from ..safety import SafetyLimits

_PEAK = 1.875  # speed in the middle of a minimum-jerk motion, as a multiple of its mean
NEAR = 6.0  # LeRobot's units: an arm that has come so close to a pose is there
_SETTLE_S = 0.3


class SlowPath:
    """A straight way in joint space with minimum jerk, for `ControlLoop.policy`; time counts from the first call.

    seconds: that it takes, with a rest at the end.
    """

    def __init__(
        self,
        start: np.ndarray,
        goal: np.ndarray,
        limits: SafetyLimits,
        share: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """start, goal: (joints,) in LeRobot's units. share: of each joint's speed limit that it may reach."""
        speeds = np.array([joint.speed for joint in limits.joints.values()]) * share
        self._start, self._goal = np.array(start, dtype=float), np.array(goal, dtype=float)
        self._moving = _PEAK * float((np.abs(self._goal - self._start) / speeds).max())
        self.seconds = self._moving + _SETTLE_S
        self._clock = clock
        self._begun: float | None = None

    def __call__(self, observation: Mapping[str, Any]) -> np.ndarray:
        now = self._clock()
        if self._begun is None:
            self._begun = now
        at = min((now - self._begun) / self._moving, 1.0) if self._moving > 0 else 1.0
        share = at**3 * (10 - 15 * at + 6 * at**2)
        return self._start + share * (self._goal - self._start)


def check_arrived(position: np.ndarray, goal: np.ndarray, limits: SafetyLimits) -> None:
    """Raise UserError if an arm is not at a pose: something, or its safety limits, kept it from there."""
    away = np.abs(position - goal)
    joint = int(away.argmax())
    if away[joint] > NEAR:
        raise UserError(
            f"the arm did not come to the pose that it was sent to: {list(limits.joints)[joint]} is at "
            f"{position[joint]:.0f} instead of {goal[joint]:.0f}; clear its way, or change start_pose"
        )
