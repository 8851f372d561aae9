"""Safety layer of an arm: a command and the arm's state in, a command within all limits out."""

import logging
import math
from typing import NamedTuple

import numpy as np

from tinyvla.errors import UserError

from .emergency import EmergencyStop
from .limits import SafetyLimits
from .monitors import (
    ArmState,
    EmergencyMonitor,
    FreshnessMonitor,
    PersonMonitor,
    PersonView,
    Reaction,
    ServoMonitor,
    Verdict,
)
from .planner import Planner
from .readings import ReadingMonitor
from .report import Cause, Interventions

logger = logging.getLogger(__name__)

EARLY, LATE = 0.5, 2.5  # ticks: an earlier call gets the last answer; after a longer gap the arm stands still
MIN_SHARE, GROWTH = 1 / 64, 1.4  # smallest share of a command tried next to an obstacle, and its growth per tick
REST = MIN_SHARE / 16  # counts as 0, and grows to a share that is tried again after some ticks
ALIGNED = 6.0  # units between command and arm from which it follows at full speed again


class SafeCommand(NamedTuple):
    """Command within all limits.

    Attributes:
        position: (joints,) in LeRobot's units; memory of the layer, which its next step overwrites.
        torque: share of their greatest torque that the servos may use, 0 for torque off.
        reaction: FOLLOW, unless a monitor asks for another one.
    """

    position: np.ndarray
    torque: float
    reaction: Reaction


class SafetyLayer:
    """Turns commands into commands within all limits.

    Positions are in LeRobot's units for the arm (for an SO-101 with use_degrees: degrees, and 0 to 100 for the
    gripper) and in the order of `joints`. Times are monotonic seconds and always arguments, so a test needs no clock.
    Call `start` before the first step. A step copies no arrays and allocates no memory.
    """

    def __init__(self, limits: SafetyLimits, emergency_stop: EmergencyStop | None = None) -> None:
        self.limits = limits
        self.joints = tuple(limits.joints)
        self.emergency_stop = emergency_stop or EmergencyStop()
        self.report = Interventions()
        size = len(self.joints)
        self._planner = Planner(list(limits.joints.values()), limits.rate_hz)
        self._geometry = None
        if limits.model is not None:
            from .geometry import ArmGeometry  # loads MuJoCo

            self._geometry = ArmGeometry(limits, len(self._planner.plan))
        else:
            logger.warning("safety.model is null: nothing keeps the arm from the table, the walls and itself")
        self._readings = ReadingMonitor(limits)
        self._servos = ServoMonitor(limits.servo, limits.grips)
        self._freshness = FreshnessMonitor(limits.watchdog)
        self._person = PersonMonitor(limits.person)
        self._emergency = EmergencyMonitor(limits.emergency_stop, self.emergency_stop)
        self._verdict = Verdict([None] * size)
        self._ranges = [(joint.min, joint.max) for joint in limits.joints.values()]
        self._command = [0.0] * size
        self._sent = np.zeros(size)
        self._accelerations, self._tried = [0.0] * size, [0.0] * size
        self._opening = np.zeros(size)  # how each joint's turning opened the gap at the last obstacle
        self._share = 1.0  # of the motion towards it
        self._started = self._aligning = False
        self._last: SafeCommand | None = None
        self._time = -np.inf

    def start(self, now: float, state: ArmState) -> list[str]:
        """Begin from the arm's position, standing still. Returns one line per limit that it is outside of.

        Such a limit gives way as far as it must, and tightens while the arm moves inside.
        Raises ValueError if the position is not finite, and UserError if the arm cannot be there.
        """
        if not np.isfinite(state.position).all():
            raise ValueError(f"the arm's position is not finite: {state.position}")
        if (joint := self._readings.unreachable(state.position)) is not None:
            raise UserError(
                f"{self.joints[joint]} reads {state.position[joint]:.0f}, where it cannot be; switch the arm's power "
                "off and on, and check its calibration: python robot_setup.py step=check"
            )
        self._started, self._time, self._last, self._aligning = True, -np.inf, None, False
        outside = [f"{self.joints[i]} is at {state.position[i]:.1f}" for i in self._planner.start(state.position)]
        self._command[:] = state.position.tolist()
        self._sent[:] = state.position
        self._share = 1.0
        self._readings.restart(state.position, now)
        self._servos.restart()
        self._freshness.restart(now)
        self._emergency.restart()
        if self._geometry is not None:
            outside += [f"{pair} are too near" for pair in self._geometry.relax(self._sent)]
        return outside

    def resume(self, now: float, state: ArmState) -> list[str]:
        """Release the emergency stop and begin again from the arm's position, see `start`; commands are aligned."""
        self.emergency_stop.release()
        outside = self.start(now, state)
        self.align()
        return outside

    def align(self) -> None:
        """Approach the command slowly until the arm is near, as after a hold; for a change of who commands the arm."""
        self._aligning = True

    def is_possible(self, position: np.ndarray, time: float) -> bool:
        """True if the arm can be at a position, (joints,), read at a time; if not, the reading does not count."""
        return self._readings.is_possible(position, time, self._planner.position)

    @property
    def sent(self) -> np.ndarray | None:
        """Pose that the arm was sent last, (joints,); None before the start."""
        return self._sent.copy() if self._started else None

    @property
    def braking_s(self) -> float:
        """Seconds until the arm is at rest from any motion."""
        return len(self._planner.plan) / self.limits.rate_hz

    def rest_pose(self) -> np.ndarray:
        """Pose at which the arm would come to rest if it braked now, (joints,)."""
        return self._planner.plan[self._planner.length - 1].copy()

    def step(
        self, now: float, command: np.ndarray | None, state: ArmState | None, person: PersonView | None = None
    ) -> SafeCommand:
        """Check the command of one tick.

        Args:
            now: time of the tick.
            command: next pose, (joints,); None if none came since the last tick.
            state: newest reading of the arm, None if it could not be read.
            person: newest view of the person detector, if there is one.
        """
        if not self._started:
            raise RuntimeError("call SafetyLayer.start with the arm's state before the first step")
        gap = (now - self._time) * self.limits.rate_hz
        if gap < EARLY and self._last is not None:
            self.report.note(Cause.EARLY_TICK)
            self.report.close(now)
            return self._last
        if LATE < gap < np.inf:
            self.report.note(Cause.LATE_TICK)
            self._planner.stand()
            self._aligning |= now - self._time > self.limits.watchdog.hold_s  # it was as good as held
        self._time = now
        fresh = self._take(command)
        self._judge(now, fresh, state, person)
        self._aim(fresh)
        self._avoid()
        self._planner.keep()
        self._sent[:] = self._planner.plan[0]
        self.report.close(now)
        self._last = SafeCommand(self._sent, self._verdict.torque, self._verdict.reaction)
        return self._last

    def _take(self, command: np.ndarray | None) -> bool:
        """Stages 1 and 2: follow a command if it is finite, within the joints' limits."""
        if command is None:
            return False
        if len(command) != len(self.joints):
            raise ValueError(f"a command has {len(command)} numbers for the {len(self.joints)} joints of the arm")
        if not all(map(math.isfinite, command.tolist())):
            self.report.note(Cause.NOT_FINITE)
            return False
        for i, (low, high) in enumerate(self._ranges):
            target = command.item(i)
            self._command[i] = min(max(target, low), high)
            if self._command[i] != target:
                self.report.note(Cause.JOINT_LIMIT)
        return True

    def _judge(self, now: float, fresh: bool, state: ArmState | None, person: PersonView | None) -> None:
        """Stages 6 to 9, which decide on the reaction; they come first, and stages 3 to 5 carry it out."""
        verdict, report, readings = self._verdict, self.report, self._readings
        verdict.clear()
        if state is not None and not readings.judge(state, self._planner.position):
            report.note(Cause.IMPOSSIBLE_READING)
            state = None
        if state is not None and now - state.time <= self.limits.watchdog.state_s:
            self._servos.judge(now, state, self._planner.position, readings.displaced, verdict, report)
        self._freshness.judge(now, fresh, state, verdict, report)
        self._person.judge(now, person, verdict, report)
        self._emergency.judge(now, verdict, report)

    def _aim(self, fresh: bool) -> None:
        """Stage 3: accelerations of this tick, within the limits of speed, acceleration and jerk."""
        planner, verdict, out = self._planner, self._verdict, self._accelerations
        following_share = self._following_share(fresh)
        for i in range(len(self.joints)):
            share = 1.0
            if verdict.reaction == Reaction.FOLLOW:
                target, share = self._command[i], following_share
            elif verdict.reaction == Reaction.GIVE_WAY and (to := verdict.yielding[i]) is not None:
                target = min(max(to, self._ranges[i][0]), self._ranges[i][1])
            elif verdict.reaction == Reaction.RETREAT:
                target, share = self.limits.watchdog.retreat_pose[i], self.limits.watchdog.retreat_speed
            else:
                planner.brake(i, out)
                continue
            if (cause := planner.aim(i, target, out, share)) and verdict.reaction == Reaction.FOLLOW:
                self.report.note(cause)

    def _following_share(self, fresh: bool) -> float:
        """Share of the speed limits at which commands are followed: less after a hold, until the command is near."""
        if self._verdict.reaction != Reaction.FOLLOW:
            self._aligning = True
        elif self._aligning:
            at = self._planner.position
            self._aligning = not fresh or any(abs(self._command[i] - at[i]) > ALIGNED for i in range(len(at)))
            if self._aligning:
                self.report.note(Cause.ALIGNING)
                return self.limits.align_speed
        return 1.0

    def _avoid(self) -> None:
        """Stages 4 and 5: a plan that keeps clear of the walls, the table and the arm itself while it brakes.

        Joints that turn towards an obstacle turn less, the remaining ones go on, so that an arm slides along a table.
        If that does not help, all brake, which the last plan has shown to be clear.
        """
        planner, geometry = self._planner, self._geometry
        if geometry is None or self._verdict.reaction == Reaction.HOLD:
            planner.make(self._accelerations)
            return
        self._share = min(1.0, GROWTH * self._share)
        for _ in range(3):
            planner.make(self._accelerations if self._share == 1 else self._held_back())
            if (obstacle := self._obstacle()) is None:
                break
            self.report.note(obstacle)
            geometry.opening(self._opening)
            self._share = self._share / 4 if self._share > MIN_SHARE else REST
        else:
            for i in range(len(self.joints)):
                planner.brake(i, self._accelerations)
            planner.make(self._accelerations)
        geometry.tighten(planner.plan[: planner.length])

    def _held_back(self) -> list[float]:
        """Accelerations of this tick; towards the last obstacle only a share of what exceeds braking."""
        share = self._share if self._share >= MIN_SHARE else 0.0
        for i, acceleration in enumerate(self._accelerations):
            braking = self._planner.braking(i)
            beyond_braking = acceleration - braking
            towards = beyond_braking * self._opening[i] < 0
            self._tried[i] = braking + (share if towards else 1.0) * beyond_braking
        return self._tried

    def _obstacle(self) -> Cause | None:
        """Obstacle that the plan comes too near to, if any."""
        assert self._geometry is not None
        if self._geometry.first_conflict(self._planner.plan[: self._planner.length]) is None:
            return None
        return self._geometry.obstacle()
