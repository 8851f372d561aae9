"""Monitors that decide whether the arm may follow commands: servos, freshness, people, the emergency stop.

A monitor gets the time, in monotonic seconds, and the state, and asks for a reaction. The layer carries it out within
the limits of motion.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

import numpy as np

from .emergency import EmergencyStop
from .limits import Emergency, Person, Servo, Watchdog
from .report import Cause, Interventions


@dataclass
class ArmState:
    """Reading of the arm. Values that an arm does not report are NaN.

    Attributes:
        position: (joints,) in LeRobot's units.
        load: (joints,) shares of the greatest torque that each servo may use, of either sign.
        temperature: (joints,) in °C.
        time: of the reading, monotonic seconds.
    """

    position: np.ndarray
    load: np.ndarray
    temperature: np.ndarray
    time: float

    @classmethod
    def of(cls, position: np.ndarray, time: float) -> "ArmState":
        """Reading of positions alone."""
        position = np.array(position, dtype=float)
        return cls(position, np.full_like(position, np.nan), np.full_like(position, np.nan), time)


class PersonView(NamedTuple):
    """Judgement of a frame by a detector: probability that a person is in view, and the frame's time."""

    probability: float
    time: float


class Reaction(IntEnum):
    """Reactions from the mildest to the strictest; the strictest that a monitor asks for is carried out."""

    FOLLOW = 0
    RETREAT = 1  # to the configured pose
    HOLD = 2
    GIVE_WAY = 3  # a hold in which overloaded and stuck joints go to their position, so that they do not press


@dataclass
class Verdict:
    """Reaction that the monitors ask for in a tick, and the share of torque for it."""

    yielding: list[float | None]  # goals of the joints that give way
    reaction: Reaction = Reaction.FOLLOW
    torque: float = 1.0

    def clear(self) -> None:
        for joint in range(len(self.yielding)):
            self.yielding[joint] = None
        self.reaction, self.torque = Reaction.FOLLOW, 1.0

    def ask(self, reaction: Reaction, torque: float = 1.0) -> None:
        self.reaction, self.torque = max(self.reaction, reaction), min(self.torque, torque)


class _Patience:
    """Joints that have been beyond a limit for too long, until `clear_s` after they no longer are."""

    def __init__(self, limit: float, patience_s: float, clear_s: float, cause: Cause, joints: int) -> None:
        self.limit, self.patience_s, self.clear_s, self.cause = limit, patience_s, clear_s, cause
        self._since, self._until = [math.inf] * joints, [-math.inf] * joints

    def restart(self) -> None:
        for joint in range(len(self._since)):
            self._since[joint], self._until[joint] = math.inf, -math.inf

    def judge(self, now: float, joint: int, value: float, report: Interventions) -> bool:
        """True if a joint with this value, of either sign, has to give way."""
        if abs(value) > self.limit:  # NaN, not reported, is not
            self._since[joint] = min(self._since[joint], now)
            # A joint that yields already goes on until it has been within the limit for `clear_s`.
            if now - self._since[joint] >= self.patience_s or self._until[joint] > now:
                self._until[joint] = now + self.clear_s
        else:
            self._since[joint] = math.inf
        if self._until[joint] <= now:
            return False
        report.note(self.cause)
        return True


class ServoMonitor:
    """Monitor of loads, lags and temperatures: an overloaded or stuck joint gives way, a hot one stops the arm.

    A gripper that holds an object lags and pushes as it should: only its temperature counts.

    Args:
        limits: of the servos.
        grips: True for each joint that holds objects, (joints,).
    """

    def __init__(self, limits: Servo, grips: Sequence[bool]) -> None:
        self.limits = limits
        self._grips = grips
        self._load = _Patience(limits.load, limits.load_s, limits.clear_s, Cause.LOAD, len(grips))
        self._lag = _Patience(limits.lag, limits.lag_s, limits.clear_s, Cause.LAG, len(grips))
        self._refuges: list[float | None] = [None] * len(grips)  # positions that joints give way to
        self._hot = False

    def restart(self) -> None:
        """Forget how long joints have been overloaded or behind."""
        self._load.restart()
        self._lag.restart()
        self._refuges[:] = [None] * len(self._refuges)

    def judge(
        self,
        now: float,
        state: ArmState,
        sent: Sequence[float],
        displaced: Sequence[bool],
        verdict: Verdict,
        report: Interventions,
    ) -> None:
        """Judge a reading. sent: (joints,), the last pose sent to the arm; displaced: see `ReadingMonitor`."""
        limits = self.limits
        missing, hottest = False, -math.inf
        for joint, here in enumerate(sent):
            at, load, temperature = (values.item(joint) for values in (state.position, state.load, state.temperature))
            missing |= not (math.isfinite(load) and math.isfinite(temperature))
            hottest = max(hottest, temperature)  # NaN, not reported, is not hotter
            if not self._grips[joint]:
                self._judge_joint(now, joint, at, load, here, displaced[joint], verdict, report)
        self._hot = hottest > (limits.temperature_resume if self._hot else limits.temperature)
        if self._hot:
            report.note(Cause.TEMPERATURE)
            verdict.ask(Reaction.HOLD, limits.torque)
        if limits.required and missing:
            report.note(Cause.NO_READING)
            verdict.ask(Reaction.HOLD)

    def _judge_joint(
        self,
        now: float,
        joint: int,
        at: float,
        load: float,
        here: float,
        displaced: bool,
        verdict: Verdict,
        report: Interventions,
    ) -> None:
        limits, lag = self.limits, at - here
        if displaced and abs(lag) > limits.lag:  # that of a wrong reading; a servo that really lags pushes
            report.note(Cause.DISPLACED)
            verdict.ask(Reaction.HOLD, 1.0 if math.isfinite(load) else limits.torque)
            lag = 0.0
        overloaded = self._load.judge(now, joint, load, report)
        if not self._lag.judge(now, joint, lag, report) and not overloaded:
            self._refuges[joint] = None
            return
        # Within its limits again, a joint stays where it is: it would sink if it went on to follow its position.
        if self._refuges[joint] is None or abs(load) > limits.load or abs(lag) > limits.lag:
            self._refuges[joint] = at
        verdict.yielding[joint] = self._refuges[joint]
        verdict.ask(Reaction.GIVE_WAY, limits.torque)


class FreshnessMonitor:
    """Watchdog: commands and readings have to keep coming."""

    def __init__(self, limits: Watchdog) -> None:
        self.limits = limits
        self._commanded = self._read = -math.inf

    def restart(self, now: float) -> None:
        """Count from now."""
        self._commanded = self._read = now

    def judge(self, now: float, fresh: bool, state: ArmState | None, verdict: Verdict, report: Interventions) -> None:
        """Judge a tick. fresh: a new, finite command came with it."""
        if fresh:
            self._commanded = now
        if state is not None and math.isfinite(sum(state.position.tolist())):
            self._read = min(state.time, now)
        if now - self._read > self.limits.state_s:
            report.note(Cause.NO_READING)
            verdict.ask(Reaction.HOLD)
        silence = now - self._commanded
        if silence > self.limits.retreat_s:
            report.note(Cause.RETREAT)
            retreats = self.limits.then == "retreat"
            verdict.ask(Reaction.RETREAT if retreats else Reaction.HOLD, self.limits.torque)
        elif silence > self.limits.hold_s:
            report.note(Cause.NO_COMMAND)
            verdict.ask(Reaction.HOLD)


class PersonMonitor:
    """Stops the arm while a person is in view, or while no recent frame was judged, and `resume_s` longer.

    `person_watcher.PersonWatcher` feeds it. Probabilities are debounced before, by `tinyvla.frontends.wake.PersonGate`.
    """

    def __init__(self, limits: Person) -> None:
        self.limits = limits
        self._blocked_until = -math.inf

    def judge(self, now: float, view: PersonView | None, verdict: Verdict, report: Interventions) -> None:
        """Judge a tick. view: of the newest frame that was judged, if any was."""
        if not self.limits.enabled:
            return
        if view is None or not now - view.time <= self.limits.frame_s:
            cause = Cause.NO_FRAME
        elif not view.probability < self.limits.probability:  # NaN is not an all-clear
            cause = Cause.PERSON
        elif now < self._blocked_until:
            cause = Cause.RESUMING
        else:
            return
        if cause != Cause.RESUMING:
            self._blocked_until = now + self.limits.resume_s
        report.note(cause)
        verdict.ask(Reaction.HOLD)


@dataclass
class EmergencyMonitor:
    """Holds the arm once the emergency stop is pressed, and cuts its torque after `torque_off_s`."""

    limits: Emergency
    stop: EmergencyStop
    _since: float | None = field(default=None, init=False)

    def restart(self) -> None:
        """Begin anew, unless the stop is still pressed."""
        if not self.stop.pressed:
            self._since = None

    def judge(self, now: float, verdict: Verdict, report: Interventions) -> None:
        # Released, the stop stays in force until the layer is started again from the arm's position.
        if self._since is None and self.stop.pressed:
            self._since = now
        if self._since is None:
            return
        report.note(Cause.EMERGENCY_STOP)
        delay = self.limits.torque_off_s
        verdict.ask(Reaction.HOLD, 0.0 if delay is not None and now - self._since >= delay else 1.0)
