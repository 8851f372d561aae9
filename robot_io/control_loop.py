"""Control loop: reads the arm, asks for a command, passes it through the safety layer, and sends it, on time."""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from tinyvla.errors import UserError

from .safety import ArmState, PersonView, SafeCommand, SafetyLayer, agree, on_interrupt

logger = logging.getLogger(__name__)

# Failed readings in a row, and ticks beyond what the watchdog allows, until the loop gives up.
MAX_FAILED_READS = 5
LOG_INTERVAL_S = 1.0  # seconds between two warnings that the arm cannot be read

# From an observation to the pose to send next, (joints,) in the layer's order and units; None where there is none yet.
# It returns at once: inference that takes longer runs in a thread of its own.
CommandSource = Callable[[dict[str, Any]], np.ndarray | None]
# Called after every tick with: the time when it was due, the observation (None if there was no reading), the source's
# command, what was sent (whose position the next tick overwrites).
TickObserver = Callable[[float, dict[str, Any] | None, np.ndarray | None, SafeCommand], None]


class Arm(Protocol):
    """Connected arm as the loop drives it, such as `deployment.arm_session.RobotArm`."""

    def get_observation(self) -> dict[str, Any]:
        """Observation of LeRobot: "<joint>.pos" and camera images. Raises OSError or RuntimeError if reading failed."""

    def send_action(self, action: dict[str, Any]) -> dict[str, Any]:
        """Send a pose as "<joint>.pos"; the pose that was sent."""

    def set_torque(self, share: float) -> None:
        """Limit the servos to a share of their torque, 0 for torque off; without effect where that cannot be set."""

    def read_servos(self) -> np.ndarray | None:
        """Loads and temperatures, (2, joints), as `ArmState` has them; None for an arm that reports neither."""

    def heartbeat(self) -> None:
        """Sign of life for the process that guards the arm."""


class PersonSensor(Protocol):
    """Detector of people that looks at the loop's observations, such as `person_gate.PersonCamera`."""

    def observe(self, observation: dict[str, Any]) -> None:
        """Hand over an observation; returns at once."""

    def view(self) -> PersonView | None:
        """Newest view, None before the first."""


class Timing:
    """Punctuality of the ticks of a loop, in constant memory: delays are counted in bins of 0.1 ms.

    The delay of a tick is from when it was due to when it began. It is late beyond `late_s`; ticks that were due while
    an earlier one still ran are missed.
    """

    BIN_S, BINS = 1e-4, 10_000

    def __init__(self, late_s: float) -> None:
        self.late_s = late_s
        self.ticks = self.late = self.missed = 0
        self.worst_s = 0.0
        self._bins = np.zeros(self.BINS, np.int64)

    def add(self, delay: float) -> None:
        """Count a tick that began `delay` seconds after it was due."""
        self.ticks += 1
        self.late += delay > self.late_s
        self.worst_s = max(self.worst_s, delay)
        self._bins[min(max(int(delay / self.BIN_S), 0), self.BINS - 1)] += 1

    def percentile(self, q: float) -> float:
        """Delay in seconds that q percent of the ticks did not exceed, rounded up to 0.1 ms."""
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
    """Drives an arm until the run ends, time is over, or the emergency stop is pressed; Ctrl-C presses it.

    However it ends, the arm is brought to rest within its limits before `run` returns or raises. If the command source,
    the arm or the emergency stop ended it, its torque is cut then, as the limits of the emergency stop say. Servos that
    no longer answer cannot be braked either: their torque is cut at once (stop category 0 of IEC 60204-1).

    Args:
        arm: connected; its actions are named "<joint>.pos".
        source: gives the pose of each tick.
        layer: checks every command; its rate is the loop's.
        person: detector of people for the safety layer.
        observer: called after every tick, to record or to show it.
        clock, sleep: of monotonic time; a test passes its own.
    """

    arm: Arm
    source: CommandSource
    layer: SafetyLayer
    person: PersonSensor | None = None
    observer: TickObserver | None = None
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    timing: Timing = field(init=False)
    _torque: float = field(default=1.0, init=False)
    _error: BaseException | None = field(default=None, init=False)  # that ends the run
    _failed_reads: int = field(default=0, init=False)
    _read_at: float = field(default=math.inf, init=False)  # time of the last reading
    _warned_at: float = field(default=-math.inf, init=False)  # time of the last warning that the arm cannot be read

    def __post_init__(self) -> None:
        self._period = 1 / self.layer.limits.rate_hz
        self.timing = Timing(late_s=0.1 * self._period)
        self._keys = [f"{joint}.pos" for joint in self.layer.joints]

    def run(self, seconds: float | None = None, done: Callable[[], bool] | None = None) -> str:
        """Run until the time is over, `done` returns True after a tick, or the emergency stop is pressed.

        Returns the reason: "time", "done" or what pressed the emergency stop. Call it in the main thread, which Ctrl-C
        interrupts. Raises what the source, the arm or the observer raised.
        """
        stop, ended = self.layer.emergency_stop, "time"
        with on_interrupt(stop):
            if outside := self.layer.start(self.clock(), self._first_state()):
                logger.warning("the arm starts outside its limits: %s", "; ".join(outside))
            try:
                due = self.clock()
                end = math.inf if seconds is None else due + seconds - self._period / 2
                while not stop.pressed and due < end:
                    self._tick(due)
                    if done is not None and done():
                        ended = "done"
                        break
                    due = self._wait(due)
            except BaseException as error:
                self._error = error
                stop.press(type(error).__name__)
                raise
            finally:
                self._come_to_rest()
            return str(stop.source) if stop.pressed else ended

    def _tick(self, due: float) -> None:
        now = self.clock()
        self.timing.add(now - due)
        observation, state = self._read()
        if state is not None and not self.layer.is_possible(state.position, state.time):
            observation = None  # neither policy nor recording sees it; the layer counts it, and holds
        command = None
        if observation is not None:
            if self.person is not None:
                self.person.observe(observation)
            command = self.source(observation)
        safe = self._send(now, state, command)
        if self.observer is not None:
            self.observer(due, observation, command, safe)

    def _first_state(self) -> ArmState:
        """State of the arm that two readings in a row agree on; an error if there is none."""
        before = None
        for _ in range(MAX_FAILED_READS):
            state = self._read()[1]
            if state is None:
                raise ConnectionError("the arm cannot be read, so it was not moved; check its cable and power")
            if before is not None and agree(before.position, state.position):
                return state
            before = state
        raise UserError("the arm's positions jump from reading to reading, so it was not moved; check cable and power")

    def _read(self) -> tuple[dict[str, Any] | None, ArmState | None]:
        """Observation and the state in it, None if reading failed; raises if it keeps failing."""
        try:
            observation = self.arm.get_observation()
            time = self.clock()
            position = np.array([observation[key] for key in self._keys], dtype=float)
            state = ArmState.of(position, time)
            servos = self.arm.read_servos()
            if servos is not None:
                state.load[:], state.temperature[:] = servos
        except (OSError, RuntimeError) as error:  # of the port, of a servo, of a camera
            self._failed_reads += 1
            if self._is_lost():
                raise
            if self.clock() - self._warned_at >= LOG_INTERVAL_S:
                self._warned_at = self.clock()
                logger.warning("the arm could not be read: %s", error)
            return None, None
        self._failed_reads, self._read_at = 0, time
        return observation, state

    def _is_lost(self) -> bool:
        """True if the arm could not be read for too long. Failing takes time itself, so ticks alone do not count."""
        patience = self.layer.limits.watchdog.state_s + MAX_FAILED_READS * self._period
        return self._failed_reads > MAX_FAILED_READS and self.clock() - self._read_at > patience

    def _answers(self) -> bool:
        """False if the servos can be asked and do not answer; otherwise a camera may be what fails."""
        try:
            self.arm.read_servos()
        except Exception:
            return False
        return True

    def _try_read(self) -> ArmState | None:
        """State of the arm, None if it cannot be read."""
        try:
            return self._read()[1]
        except Exception:  # the fault of the arm is known by now, and it has to brake all the same
            return None

    def _send(self, now: float, state: ArmState | None, command: np.ndarray | None) -> SafeCommand:
        self.arm.heartbeat()
        view = self.person.view() if self.person is not None else None
        safe = self.layer.step(now, command, state, view)
        if safe.torque < self._torque:
            self._set_torque(safe.torque)
        if safe.torque > 0:
            self.arm.send_action(dict(zip(self._keys, safe.position.tolist(), strict=True)))
        if safe.torque > self._torque:  # only now, as servos go to their last goal when torque comes back
            self._set_torque(safe.torque)
        return safe

    def _set_torque(self, share: float) -> None:
        self.arm.set_torque(share)
        self._torque = share

    def _wait(self, due: float) -> float:
        """Sleep until the next tick; returns when that is due. Ticks that are over already are not made up for."""
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
                self._send(now, self._try_read(), rest)
        except BaseException as error:
            self._report(f"the arm could not be brought to rest: {error}")
            if not stopped:
                raise
        finally:
            if delay is not None and self._torque > 0:
                self._cut_torque()

    def _cut_torque(self) -> None:
        """Switch torque off; an arm that does not answer is asked again."""
        for attempts_left in (2, 1, 0):
            try:
                self._set_torque(0.0)
                return
            except Exception as error:
                if not attempts_left:
                    self._report(f"torque could not be cut: {error}; cut the arm's power")

    def _report(self, problem: str) -> None:
        """Add a problem to the error that ends the run, which most often is its cause; log it if there is none."""
        if self._error is None:
            logger.error(problem)
        else:
            self._error.add_note(problem)
