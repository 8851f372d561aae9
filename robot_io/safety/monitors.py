"""What decides whether the arm may follow commands: servos, freshness, people, the emergency stop.

A monitor looks at what is known at a time, in monotonic seconds which it is given, and asks for a reaction. None
moves the arm: the layer carries the reaction out within the limits of motion.
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
    """A reading of the arm. What an arm does not report is NaN.

    position: (joints,) in LeRobot's units; load: (joints,) shares of the greatest torque, either sign; temperature:
    (joints,) in °C; time: of the reading, monotonic seconds.
    """

    position: np.ndarray
    load: np.ndarray
    temperature: np.ndarray
    time: float

    @classmethod
    def of(cls, position: np.ndarray, time: float) -> "ArmState":
        """A reading of positions alone."""
        position = np.array(position, dtype=float)
        return cls(position, np.full_like(position, np.nan), np.full_like(position, np.nan), time)


class PersonView(NamedTuple):
    """What a detector says of a frame: how likely a person is in view, and when the frame was taken."""

    probability: float
    time: float


class Reaction(IntEnum):
    """From the mildest to the strictest; the strictest asked for is carried out."""

    FOLLOW = 0
    GIVE_WAY = 1  # overloaded and stuck joints go to where they are, the others stand still
    RETREAT = 2  # to the configured pose
    HOLD = 3


@dataclass
class Verdict:
    """What the monitors ask for in a tick: a reaction, and the share of torque for it."""

    yielding: list[float | None]  # where joints that give way go to
    reaction: Reaction = Reaction.FOLLOW
    torque: float = 1.0

    def clear(self) -> None:
        for joint in range(len(self.yielding)):
            self.yielding[joint] = None
        self.reaction, self.torque = Reaction.FOLLOW, 1.0

    def ask(self, reaction: Reaction, torque: float = 1.0) -> None:
        self.reaction, self.torque = max(self.reaction, reaction), min(self.torque, torque)


class _Patience:
    """Joints that have been beyond a limit for too long, and for a while after they no longer are."""

    def __init__(self, limit: float, patience_s: float, clear_s: float, cause: Cause, joints: int) -> None:
        self.limit, self.patience_s, self.clear_s, self.cause = limit, patience_s, clear_s, cause
        self._since, self._until = [math.inf] * joints, [-math.inf] * joints

    def restart(self) -> None:
        for joint in range(len(self._since)):
            self._since[joint], self._until[joint] = math.inf, -math.inf

    def judge(self, now: float, joint: int, value: float, report: Interventions) -> bool:
        """Whether a joint with this value, of either sign, has to give way."""
        if abs(value) > self.limit:  # NaN, not reported, is not
            self._since[joint] = min(self._since[joint], now)
            # One that yields already goes on until it has been well for a while.
            if now - self._since[joint] >= self.patience_s or self._until[joint] > now:
                self._until[joint] = now + self.clear_s
        else:
            self._since[joint] = math.inf
        if self._until[joint] <= now:
            return False
        report.note(self.cause)
        return True


class ServoMonitor:
    """Loads, lags and temperatures: an overloaded or stuck joint gives way, a hot one stops the arm."""

    def __init__(self, limits: Servo, joints: int) -> None:
        self.limits = limits
        self._load = _Patience(limits.load, limits.load_s, limits.clear_s, Cause.LOAD, joints)
        self._lag = _Patience(limits.lag, limits.lag_s, limits.clear_s, Cause.LAG, joints)
        self._hot = False

    def restart(self) -> None:
        """Forget how long joints have been overloaded or behind."""
        self._load.restart()
        self._lag.restart()

    def judge(
        self, now: float, state: ArmState, sent: Sequence[float], verdict: Verdict, report: Interventions
    ) -> None:
        """sent: (joints,), the last pose sent to the arm."""
        limits = self.limits
        yields, missing, hottest = False, False, -math.inf
        for joint, here in enumerate(sent):
            at, load, temperature = (values.item(joint) for values in (state.position, state.load, state.temperature))
            too_much = self._load.judge(now, joint, load, report)
            if self._lag.judge(now, joint, at - here, report) or too_much:
                yields = True
                verdict.yielding[joint] = at if math.isfinite(at) else None
            missing |= not (math.isfinite(load) and math.isfinite(temperature))
            hottest = max(hottest, temperature)  # NaN, not reported, is not hotter
        if yields:
            verdict.ask(Reaction.GIVE_WAY, limits.torque)
        self._hot = hottest > (limits.temperature_resume if self._hot else limits.temperature)
        if self._hot:
            report.note(Cause.TEMPERATURE)
            verdict.ask(Reaction.HOLD, limits.torque)
        if limits.required and missing:
            report.note(Cause.NO_READING)
            verdict.ask(Reaction.HOLD)


class FreshnessMonitor:
    """The watchdog: commands and readings have to keep coming."""

    def __init__(self, limits: Watchdog) -> None:
        self.limits = limits
        self._commanded = self._read = -math.inf

    def restart(self, now: float) -> None:
        """Count from now on."""
        self._commanded = self._read = now

    def judge(self, now: float, fresh: bool, state: ArmState | None, verdict: Verdict, report: Interventions) -> None:
        """fresh: whether a new, finite command came with this tick."""
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
    """Stops the arm while a person is in view, or while nobody can tell; see `person_watcher.py` for what feeds it."""

    def __init__(self, limits: Person) -> None:
        self.limits = limits
        self._blocked_until = -math.inf

    def judge(self, now: float, view: PersonView | None, verdict: Verdict, report: Interventions) -> None:
        """view: of the newest frame that was judged, if any was."""
        if not self.limits.enabled:
            return
        if view is None or not now - view.time <= self.limits.frame_s:
            cause = Cause.NO_FRAME
        elif not view.probability < self.limits.probability:  # NaN is no all-clear
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
    """Holds the arm once the emergency stop is pressed, and cuts its torque after a while."""

    limits: Emergency
    stop: EmergencyStop
    _since: float | None = field(default=None, init=False)

    def restart(self) -> None:
        """Begin anew, unless the stop is still pressed."""
        if not self.stop.pressed:
            self._since = None

    def judge(self, now: float, verdict: Verdict, report: Interventions) -> None:
        # Released, the stop stays in force until the layer is told where the arm has come to by then.
        if self._since is None and self.stop.pressed:
            self._since = now
        if self._since is None:
            return
        report.note(Cause.EMERGENCY_STOP)
        delay = self.limits.torque_off_s
        verdict.ask(Reaction.HOLD, 0.0 if delay is not None and now - self._since >= delay else 1.0)
