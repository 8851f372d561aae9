"""Moving an arm slowly to a pose before a policy takes over, and back when it is done."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tinyvla.errors import UserError

from ..safety import SafetyLimits

# Of a minimum-jerk motion over a distance d in time T: greatest speed 1.875 d/T, greatest acceleration 5.774 d/T^2.
_SPEED, _ACCELERATION = 1.875, 5.774
_SETTLE_S = 0.2  # at the goal before it counts as reached
NEAR = 6.0  # LeRobot's units: an arm that has come so close to a pose is there
_BEHIND = 12.0  # LeRobot's units: the way waits for an arm that is further behind
_PATIENCE = 3.0  # times its duration, and so many seconds more, that a way may take


class SlowPath:
    """A straight way in joint space with minimum jerk, for `ControlLoop.policy` and `ControlLoop.done`.

    It waits for an arm that is held up, so that this has no distance to make up for at full speed.

    seconds: the most that it may take.
    """

    def __init__(
        self,
        start: np.ndarray,
        goal: np.ndarray,
        limits: SafetyLimits,
        share: float,
        give_up_s: float = np.inf,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            start, goal: (joints,) in LeRobot's units.
            share: of the limits of speed and acceleration that is used.
            give_up_s: an arm that has been held up for so long need not go on.
        """
        speeds, accelerations = (
            share * np.array([getattr(joint, what) for joint in limits.joints.values()])
            for what in ("speed", "acceleration")
        )
        self.goal = np.array(goal, dtype=float)
        self._start = self._pose = np.array(start, dtype=float)
        distance = np.abs(self.goal - self._start)
        durations = [_SPEED * distance / speeds, np.sqrt(_ACCELERATION * distance / accelerations)]
        self._moving = float(np.max(durations))
        self.seconds = _PATIENCE * (self._moving + 1)
        self._keys = [f"{joint}.pos" for joint in limits.joints]
        self._longest_step = 2 / limits.rate_hz
        self._give_up_s, self._clock = give_up_s, clock
        self._then: float | None = None
        self._passed = self._waited = 0.0
        self._done = False

    def __call__(self, observation: Mapping[str, Any]) -> np.ndarray:
        now = self._clock()
        position = np.array([observation[key] for key in self._keys], dtype=float)
        step = 0.0 if self._then is None else min(now - self._then, self._longest_step)
        self._then = now
        settled = self._passed >= self._moving + _SETTLE_S
        if settled or np.abs(position - self._pose).max() >= _BEHIND:
            self._waited += step
        else:
            self._passed, self._waited = self._passed + step, 0.0
        at = min(self._passed / self._moving, 1.0) if self._moving > 0 else 1.0
        share = at**3 * (10 - 15 * at + 6 * at**2)
        self._pose = self._start + share * (self.goal - self._start)
        there = settled and bool(np.abs(position - self.goal).max() < NEAR / 2)
        self._done = there or self._waited >= self._give_up_s
        return self._pose

    def done(self) -> bool:
        """Whether the arm was at the goal in the last tick, or need not go on."""
        return self._done


def check_arrived(position: np.ndarray, goal: np.ndarray, limits: SafetyLimits) -> None:
    """Raise UserError if an arm is not at a pose: something, or its safety limits, kept it from there."""
    away = np.abs(position - goal)
    joint = int(away.argmax())
    if away[joint] > NEAR:
        raise UserError(
            f"the arm did not come to the pose that it was sent to: {list(limits.joints)[joint]} is at "
            f"{position[joint]:.0f} instead of {goal[joint]:.0f}; clear its way, or change start_pose"
        )
