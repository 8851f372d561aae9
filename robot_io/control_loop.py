"""The control loop: reads the arm, asks the policy, passes its command through the safety layer, sends it, on time."""

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from .safety import ArmState, PersonView, SafeCommand, SafetyLayer, on_interrupt

logger = logging.getLogger(__name__)

# Told of every tick: when it was due, the observation (None if reading failed), the policy's command, what was sent
# (whose position the next tick overwrites).
Observer = Callable[[float, dict[str, Any] | None, np.ndarray | None, SafeCommand], None]
# Times in a row that the arm may fail to be read, and ticks beyond what the watchdog allows, until the loop gives up.
STUMBLES = 5
TOLD_S = 1.0  # seconds between two warnings on the log


class Robot(Protocol):
    """What the loop needs of a LeRobot robot."""

    def get_observation(self) -> dict[str, Any]: ...

    def send_action(self, action: dict[str, Any]) -> dict[str, Any]: ...


class Timing:
    """How punctual the ticks of a loop were. Its memory does not grow: delays are counted in bins of 0.1 ms.

    A tick's delay is from when it was due to when it began. It is late beyond `late_s`; ticks that were due while an
    earlier one still ran are missed.
    """

    BIN_S, BINS = 1e-4, 10_000

    def __init__(self, late_s: float) -> None:
        self.late_s = late_s
        self.ticks = self.late = self.missed = 0
        self.worst_s = 0.0
        self._bins = np.zeros(self.BINS, np.int64)

    def add(self, delay: float) -> None:
        """A tick, which began so many seconds after it was due."""
        self.ticks += 1
        self.late += delay > self.late_s
        self.worst_s = max(self.worst_s, delay)
        self._bins[min(max(int(delay / self.BIN_S), 0), self.BINS - 1)] += 1

    def percentile(self, q: float) -> float:
        """The delay in seconds that q percent of the ticks kept to, to the next 0.1 ms."""
        if not self.ticks:
            return 0.0
        rank = int(np.searchsorted(np.cumsum(self._bins), q / 100 * self.ticks))
        return min((rank + 1) * self.BIN_S, self.worst_s)

    def to_dict(self) -> dict[str, Any]:
        """Counts, and delays in milliseconds."""
        delays = {f"p{q}_ms": round(self.percentile(q) * 1e3, 2) for q in (50, 99)}
        counts = {"ticks": self.ticks, "late": self.late, "missed": self.missed}
        return counts | delays | {"worst_ms": round(self.worst_s * 1e3, 2)}


@dataclass
class ControlLoop:
    """Runs a policy on an arm until it ends, time is over, or the emergency stop is pressed; Ctrl-C presses it.

    However it ends, the arm is brought to rest within its limits before `run` returns or raises. If the policy, the arm
    or the emergency stop ended it, its torque is cut then, as the limits of the emergency stop say. Servos that do not
    answer any more cannot be braked either: their torque is cut at once (stop category 0 of IEC 60204-1).

    Attributes:
        robot: connected, LeRobot's or alike; its actions are named `<joint>.pos`.
        policy: from an observation to the pose wanted next, (joints,) in the layer's order and units; None where there
            is none yet. It should return at once: inference that takes longer belongs in a thread of its own.
        layer: sees every command.
        torque: sets the share of torque that the servos may use, 0 for torque off; None if that cannot be set.
        servos: reads loads and temperatures, (2, joints), as `ArmState` has them; None for an arm that has neither.
        person: the newest view of a person detector, such as that of a `PersonWatcher`.
        observer: told of every tick, to record or to show it.
        beat: called at every tick until the arm is at rest, a sign of life for whoever guards the arm.
        done: asked after every tick; True ends the run.
        clock, sleep: of monotonic time; a test gives its own.
    """

    robot: Robot
    policy: Callable[[dict[str, Any]], np.ndarray | None]
    layer: SafetyLayer
    torque: Callable[[float], None] | None = None
    servos: Callable[[], np.ndarray | Sequence[Sequence[float]]] | None = None
    person: Callable[[], PersonView | None] | None = None
    observer: Observer | None = None
    beat: Callable[[], None] | None = None
    done: Callable[[], bool] | None = None
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    timing: Timing = field(init=False)
    _torque: float = field(default=1.0, init=False)
    _failed: int = field(default=0, init=False)
    _read_at: float = field(default=math.inf, init=False)  # when the arm was last read
    _told: float = field(default=-math.inf, init=False)  # when the log was told that the arm cannot be read

    def __post_init__(self) -> None:
        self._period = 1 / self.layer.limits.rate_hz
        self.timing = Timing(late_s=0.1 * self._period)
        self._keys = [f"{joint}.pos" for joint in self.layer.joints]

    def run(self, seconds: float | None = None) -> str:
        """Run for so long, or until something ends it; what did: "time", "done" or what pressed the emergency stop.

        Call it in the main thread, which Ctrl-C interrupts. Raises what the policy, the robot or the observer raised.
        """
        stop, ended = self.layer.emergency_stop, "time"
        with on_interrupt(stop):
            observation, state = self._read()
            if observation is None or state is None:
                raise ConnectionError("the arm cannot be read, so it was not moved; check its cable and power")
            for words in self.layer.start(self.clock(), state):
                logger.warning("the arm starts outside its limits: %s", words)
            try:
                due = self.clock()
                end = math.inf if seconds is None else due + seconds - self._period / 2
                while not stop.pressed and due < end:
                    self._tick(due)
                    if self.done is not None and self.done():
                        ended = "done"
                        break
                    due = self._wait(due)
            except BaseException as error:
                stop.press(type(error).__name__)
                raise
            finally:
                self._come_to_rest()
            return str(stop.source) if stop.pressed else ended

    def _tick(self, due: float) -> None:
        now = self.clock()
        self.timing.add(now - due)
        observation, state = self._read()
        command = None if observation is None else self.policy(observation)
        safe = self._send(now, state, command)
        if self.observer is not None:
            self.observer(due, observation, command, safe)

    def _read(self) -> tuple[dict[str, Any] | None, ArmState | None]:
        """An observation and the state in it, None if reading failed; raises if it keeps failing."""
        try:
            observation = self.robot.get_observation()
            time = self.clock()
            position = np.array([observation[key] for key in self._keys], dtype=float)
            state = ArmState.of(position, time)
            if self.servos is not None:
                state.load[:], state.temperature[:] = self.servos()
        except (OSError, RuntimeError) as error:  # of the port, of a servo, of a camera
            self._failed += 1
            if self._is_lost():
                raise
            if self.clock() - self._told >= TOLD_S:
                self._told = self.clock()
                logger.warning("the arm could not be read: %s", error)
            return None, None
        self._failed, self._read_at = 0, time
        return observation, state

    def _is_lost(self) -> bool:
        """Whether the arm could not be read for too long. Failing takes time itself, so ticks are not what counts."""
        patience = self.layer.limits.watchdog.state_s + STUMBLES * self._period
        return self._failed > STUMBLES and self.clock() - self._read_at > patience

    def _answers(self) -> bool:
        """Whether the servos do, where that can be asked: without, a camera may be what fails."""
        try:
            return self.servos is None or self.servos() is not None
        except Exception:
            return False

    def _glance(self) -> ArmState | None:
        """A state, if there is one to be had."""
        try:
            return self._read()[1]
        except Exception:  # what is wrong with the arm is known by now, and it has to brake all the same
            return None

    def _send(self, now: float, state: ArmState | None, command: np.ndarray | None) -> SafeCommand:
        if self.beat is not None:
            self.beat()
        view = self.person() if self.person is not None else None
        safe = self.layer.step(now, command, state, view)
        if safe.torque < self._torque:
            self._set_torque(safe.torque)
        if safe.torque > 0:
            self.robot.send_action(dict(zip(self._keys, safe.position.tolist(), strict=True)))
        if safe.torque > self._torque:  # only now, as servos go to their last goal when torque comes back
            self._set_torque(safe.torque)
        return safe

    def _set_torque(self, share: float) -> None:
        if self.torque is not None:
            self.torque(share)
        self._torque = share

    def _wait(self, due: float) -> float:
        """Sleep until the next tick is due; when that is. Ticks that are over already are not made up for."""
        due += self._period
        if (behind := int((self.clock() - due) / self._period)) > 0:
            self.timing.missed += behind
            due += behind * self._period
        if (left := due - self.clock()) > 0:
            self.sleep(left)
        return due

    def _come_to_rest(self) -> None:
        """Brake the arm; after an emergency stop hold it, and cut its torque if the limits say so."""
        stopped = self.layer.emergency_stop.pressed
        delay = self.layer.limits.emergency_stop.torque_off_s if stopped else None
        rest = self.layer.rest_pose()
        try:
            if delay is not None and self._is_lost() and not self._answers():
                return
            due = self.clock()
            end = due + max(delay or 0.0, self.layer.braking_s) + 2 * self._period
            while (due := self._wait(due)) < end:
                now = self.clock()
                self._send(now, self._glance(), rest)
        except BaseException as error:
            logger.error("the arm could not be brought to rest: %s", error)
            if not stopped:
                raise
        finally:
            if delay is not None and self._torque > 0:
                self._cut()

    def _cut(self) -> None:
        """Torque off, whatever it takes: an arm that does not answer is asked again."""
        for attempt in range(3):
            try:
                self._set_torque(0.0)
                return
            except Exception as error:
                logger.error("torque could not be cut (attempt %d): %s; cut the arm's power", attempt + 1, error)
