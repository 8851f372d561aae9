"""Monitor of the arm's readings: a position at which the arm cannot be does not count."""

import math

import numpy as np

from .limits import SafetyLimits
from .monitors import ArmState

BEYOND = 30.0  # units beyond a joint's limits that a reading may lie: the range of the joint, and its calibration
MARGIN = 1.5  # times a joint's speed limit that it may really move, as when it is pushed
SLACK = 6.0  # units for backlash and noise
FARTHEST, EXPECTED = 0.7, 0.6  # shares of servo.lag: a jump that is still believed, and a distance to the pose sent
STILL, STILL_S = 2.0, 0.5  # units and seconds in which a joint at a new place stands still before that is believed
CLEAR_S = 1.0  # seconds near the pose sent after which a joint no longer counts as displaced


def agree(position: np.ndarray, other: np.ndarray) -> bool:
    """True if two readings, (joints,), of an arm at rest are of one place."""
    return bool(np.abs(position - other).max() <= SLACK)


class ReadingMonitor:
    """Believes a reading if the arm can have come there since the last one, or if it is near the pose sent.

    A reading that is refused, and repeats itself within the joints' ranges for STILL_S, is believed in the end: the arm
    was displaced. A joint counts as displaced until it has been read near the pose sent for CLEAR_S. As the reading may
    be wrong all the same, `ServoMonitor` demands a second sign before such a joint gives way.

    Attributes:
        displaced: (joints,) of bool.
    """

    def __init__(self, limits: SafetyLimits) -> None:
        joints = list(limits.joints.values())
        self.displaced = [False] * len(joints)
        self._clear_at = [0.0] * len(joints)  # times from which a displaced joint no longer counts as that
        self._ranges = [(joint.min - BEYOND, joint.max + BEYOND) for joint in joints]
        self._speeds = [MARGIN * joint.speed for joint in joints]
        self._farthest, self._expected = FARTHEST * limits.servo.lag, EXPECTED * limits.servo.lag
        self._believed, self._time = [0.0] * len(joints), -math.inf
        self._refused, self._refused_since = [0.0] * len(joints), math.inf

    def restart(self, position: np.ndarray, now: float) -> None:
        """Begin from a position, (joints,)."""
        self._believe(position, now)
        self.displaced[:] = [False] * len(self.displaced)

    def unreachable(self, position: np.ndarray) -> int | None:
        """Index of the first joint that cannot be at a position, (joints,), None if all can; NaN is nowhere."""
        for i, (low, high) in enumerate(self._ranges):
            if not low <= position.item(i) <= high:
                return i
        return None

    def is_possible(self, position: np.ndarray, time: float, sent: list[float]) -> bool:
        """True if the arm can be at a position, (joints,), at a time. sent: (joints,), the last pose sent."""
        elapsed = max(time - self._time, 0.0)
        return self.unreachable(position) is None and all(
            self._is_near(i, position.item(i), elapsed, sent) for i in range(len(sent))
        )

    def judge(self, state: ArmState, sent: list[float]) -> bool:
        """True if a reading is believed. sent: (joints,), the last pose sent."""
        position, time = state.position, state.time
        if self.is_possible(position, time, sent):
            self._believe(position, time)
            for i, here in enumerate(sent):
                if self.displaced[i]:
                    if abs(self._believed[i] - here) > self._expected:
                        self._clear_at[i] = time + CLEAR_S
                    self.displaced[i] = time < self._clear_at[i]
            return True
        if self.unreachable(position) is not None:
            self._refused_since = math.inf
            return False
        if any(abs(position.item(i) - at) > STILL for i, at in enumerate(self._refused)):
            self._refused_since = math.inf
        if self._refused_since > time:
            self._refused[:], self._refused_since = position.tolist(), time
        if time - self._refused_since < STILL_S:
            return False
        for i in range(len(sent)):
            if not self._is_near(i, position.item(i), 0.0, sent):
                self.displaced[i], self._clear_at[i] = True, time + CLEAR_S
        self._believe(position, time)
        return True

    def _is_near(self, i: int, at: float, elapsed: float, sent: list[float]) -> bool:
        farthest = min(SLACK + self._speeds[i] * elapsed, self._farthest)
        return abs(at - self._believed[i]) <= farthest or abs(at - sent[i]) <= self._expected

    def _believe(self, position: np.ndarray, time: float) -> None:
        self._believed[:], self._time = position.tolist(), time
        self._refused_since = math.inf
