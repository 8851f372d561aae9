"""Planner of the next pose and the braking after it, of which only the first pose is sent."""

from collections.abc import Sequence

import numpy as np

from .limits import JointLimits
from .motion import DONE, bounds, brake, ramp_from, towards
from .report import Cause

ON_TRACK = 1e-6  # in a joint's units: distance to the last target at which the joint counts as on it
INSIDE = 1e-6  # in the same: distance inside a limit that braking aims for
SAME = 1e-10


class Planner:
    """Positions, velocities and accelerations of all joints, and plans for the next tick.

    Positions are in LeRobot's units for the joints. A plan is a pose for the next tick and then the poses of braking
    to a standstill, all within the limits of position, speed, acceleration and jerk. The next tick may always follow
    the rest of the last plan (`braking`), so that a plan exists for every command.
    """

    def __init__(self, joints: Sequence[JointLimits], rate_hz: float) -> None:
        size = len(joints)
        self.joints = joints
        # Unit of length of each joint, and its greatest velocity and acceleration in that unit; see motion.py.
        self._unit = [joint.jerk / rate_hz**3 for joint in joints]
        self._fastest = [joint.speed / rate_hz / unit for joint, unit in zip(joints, self._unit, strict=True)]
        self._greatest = [
            joint.acceleration / rate_hz**2 / unit for joint, unit in zip(joints, self._unit, strict=True)
        ]
        self._low, self._high = [0.0] * size, [0.0] * size
        self.position, self.velocity, self.acceleration = [0.0] * size, [0.0] * size, [0.0] * size
        self._target = [0.0] * size
        self._step, self._step_before = [0.0] * size, [0.0] * size  # of the target, the last and the one before
        self._next = [0.0] * size  # accelerations of the plan
        rows = max(map(_longest_brake, self._fastest, self._greatest)) + 2
        self.plan = np.zeros((rows, size))  # of which the first `length` poses count
        self.length = 0

    def start(self, position: Sequence[float] | np.ndarray) -> list[int]:
        """Stand still at a pose. Returns the joints that are outside their limits there, which give way that far."""
        outside = []
        for i, joint in enumerate(self.joints):
            here = float(position[i])
            self.position[i] = self._target[i] = here
            self.velocity[i] = self.acceleration[i] = self._step[i] = 0.0
            self._low[i], self._high[i] = min(joint.min, here), max(joint.max, here)
            self.plan[:, i] = here
            if not joint.min <= here <= joint.max:
                outside.append(i)
        self.length = 1
        return outside

    def stand(self) -> None:
        """Forget the velocity: the arm had time to come to rest at the pose that was sent last."""
        for i, here in enumerate(self.position):
            self._target[i] = here
            self.velocity[i] = self.acceleration[i] = self._step[i] = 0.0

    def aim(self, i: int, target: float, out: list[float], share: float = 1.0) -> Cause | None:
        """Put into out[i] the next acceleration of a joint that follows a target. Returns the limit that binds, if any.

        A target that can be reached is reached exactly. Another one is approached as fast as the limits allow, without
        passing it; a target that moves steadily is followed.

        Args:
            target: position of the joint after the tick, in its units, within its limits.
            share: of the joint's speed limit that may be used.
        """
        q, v, a, unit = self.position[i], self.velocity[i], self.acceleration[i], self._unit[i]
        fastest, greatest = self._fastest[i] * share, self._greatest[i]
        before, step = self._target[i], (target - self._target[i]) / unit
        # The common share of three steps in a row counts as motion, the rest as noise.
        drift = min(step, self._step[i], self._step_before[i], key=abs)
        if step * self._step[i] <= 0 or step * self._step_before[i] <= 0:
            drift = 0.0
        drift = min(max(drift, -fastest), fastest)
        self._target[i], self._step[i], self._step_before[i] = target, step, self._step[i]

        gap = (target - q) / unit
        direct = gap - v
        low, high = bounds(v, a, fastest, greatest)
        reachable = low <= direct <= high
        on_track = abs(q - before) < ON_TRACK
        if reachable and (on_track or abs(direct) + 2 * abs(gap - drift) <= 1):
            out[i] = direct
            return None
        out[i] = towards(gap, drift, v, a, low, high, greatest)
        if abs(gap) > fastest:
            return Cause.SPEED
        return Cause.ACCELERATION if abs(direct) > greatest else Cause.JERK

    def brake(self, i: int, out: list[float]) -> None:
        """Put into out[i] the next acceleration of a joint that comes to a standstill, for any target."""
        out[i] = self.braking(i)
        self._target[i], self._step[i] = self.position[i], 0.0

    def braking(self, i: int) -> float:
        """Next acceleration of a joint that comes to a standstill."""
        return brake(self.velocity[i], self.acceleration[i], self._greatest[i])

    def make(self, accelerations: Sequence[float]) -> None:
        """Plan a tick with these accelerations, between those of braking and of `aim`, and the braking after it."""
        self.length = 1
        for i, acceleration in enumerate(accelerations):
            if side := self._roll(i, acceleration):
                v, a, greatest = self.velocity[i], self.acceleration[i], self._greatest[i]
                end = self._high[i] - INSIDE if side > 0 else self._low[i] + INSIDE
                gap = (end - self.position[i]) / self._unit[i]
                low, high = bounds(v, a, self._fastest[i], greatest)
                if self._roll(i, towards(gap, 0.0, v, a, low, high, greatest)):
                    self._roll(i, self.braking(i), to_limits=False)

    def keep(self) -> None:
        """Carry out the first tick of the plan: plan[0] is sent."""
        for i, joint in enumerate(self.joints):
            self.acceleration[i] = self._next[i]
            self.velocity[i] += self._next[i]
            self.position[i] = float(self.plan[0, i])
            if abs(self.velocity[i]) < DONE and abs(self.acceleration[i]) < DONE:
                self.velocity[i] = self.acceleration[i] = 0.0
            # A joint that started outside its limits does not go back there.
            if self._low[i] < joint.min:
                self._low[i] = min(joint.min, float(self.plan[: self.length, i].min()))
            if self._high[i] > joint.max:
                self._high[i] = max(joint.max, float(self.plan[: self.length, i].max()))

    def _roll(self, i: int, acceleration: float, to_limits: bool = True) -> int:
        """Plan one joint. Returns 1 if it would pass its upper limit, -1 for the lower one, else 0."""
        unit, greatest, low, high = self._unit[i], self._greatest[i], self._low[i], self._high[i]
        column = self.plan[:, i]
        self._next[i] = a = acceleration
        v = self.velocity[i] + a
        q = self.position[i] + unit * v
        if abs(q - self._target[i]) < SAME:
            q = self._target[i]
        length = 0
        while True:
            if not low <= q <= high:
                if to_limits:
                    return 1 if q > high else -1
                q = min(max(q, low), high)  # by rounding only
            column[length] = q
            length += 1
            if -DONE < v < DONE and -DONE < a < DONE:
                break
            a = min(max(ramp_from(-v), a - 1, -greatest), a + 1, greatest)
            v += a
            q += unit * v
        column[length:] = q
        self.length = max(self.length, length)
        return 0


def _longest_brake(fastest: float, greatest: float) -> int:
    """Ticks to a standstill from the fastest motion that is still recoverable."""
    longest = 0
    for share in np.linspace(-1, 1, 41):
        a = greatest * share
        v = fastest - (_ramp_after(a) if a > 0 else 0.0)
        ticks = 0
        while abs(v) > DONE or abs(a) > DONE:
            a = brake(v, a, greatest)
            v += a
            ticks += 1
        longest = max(longest, ticks)
    return longest


def _ramp_after(a: float) -> float:
    """Velocity that a ramp from an acceleration to zero, 1 per tick, still adds."""
    full = int(a)
    return full * a - full * (full + 1) / 2
