"""Arm of one run: connected, guarded and checked for stale images, as the control loop drives it."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from lerobot.robots import Robot

from tinyvla.errors import UserError

from ..arms import check_limits, feetech_bus, image_time, robot_cameras, servo_bus
from ..connection import check_port, connect_arm, disconnect_arm
from ..diagnosis import arm_errors, port_is_gone
from ..feetech import FeetechServos, Guard
from ..real_time import raised_priority
from ..safety import SafetyLimits, agree

logger = logging.getLogger(__name__)

_MOVED = 10.0  # LeRobot's units: an arm that has moved this far gives other images
_PATIENCE_S = 1.0  # longest stall of the line that an arm at rest waits for
_STRIDE = 8  # pixels between those that are compared first
_READINGS = 5  # greatest number of readings until two in a row agree


class RobotArm:
    """Connected robot as the control loop drives it (`control_loop.Arm`).

    An observation with an image that is too old, or that repeats while the arm moves, is a failed reading. In a dry
    run the arm is only read: nothing is sent, and its torque stays as it is.

    Args:
        robot: of LeRobot. `latest_timestamp` of its cameras, where they have one, is on time.perf_counter's clock.
        max_image_age_s: greatest age of an image, and longest time for which it may repeat while the arm moves.
        servos: of the robot; None if they cannot be read and limited.
        guard: process that cuts the torque if this one dies.
        is_possible: see `SafetyLayer.is_possible`; at an impossible position the arm has not moved. None: all are.
        clock: as time.perf_counter.
    """

    def __init__(
        self,
        robot: Robot,
        max_image_age_s: float,
        servos: FeetechServos | None = None,
        guard: Guard | None = None,
        dry_run: bool = False,
        is_possible: Callable[[np.ndarray, float], bool] | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._robot, self._max_image_age_s, self._clock = robot, max_image_age_s, clock
        self._servos, self._guard, self._dry_run, self._is_possible = servos, guard, dry_run, is_possible
        self._joints = [name for name, kind in robot.observation_features.items() if not isinstance(kind, tuple)]
        self._images: dict[str, tuple[np.ndarray, float, np.ndarray]] = {}  # image, its first time, position then

    def get_observation(self) -> dict[str, Any]:
        """Raises TimeoutError for an image that is too old or repeats, UserError at once if the port is gone.

        Other errors are the robot's.
        """
        try:
            observation = self._robot.get_observation()
        except OSError:
            if port_is_gone(self._robot):
                with arm_errors(self._robot):
                    raise
            raise
        now = self._clock()
        position = np.array([observation[joint] for joint in self._joints], dtype=float)
        if self._is_possible is not None and not self._is_possible(position, time.monotonic()):
            return observation
        for name, camera in robot_cameras(self._robot).items():
            if name in observation:
                self._check_image(name, observation[name], image_time(camera), now, position)
        return observation

    def send_action(self, action: dict[str, Any]) -> dict[str, Any]:
        is_limp = self._dry_run or (self._servos is not None and self._servos.off)
        return action if is_limp else self._robot.send_action(action)

    def set_torque(self, share: float) -> None:
        if self._servos is not None and not self._dry_run:
            self._servos.set_torque(share)

    def read_servos(self) -> np.ndarray | None:
        return None if self._servos is None else self._servos.read()

    def heartbeat(self) -> None:
        if self._guard is not None:
            self._guard.beat()

    def _check_image(self, name: str, image: np.ndarray, taken: float | None, now: float, position: np.ndarray) -> None:
        if taken is not None and now - taken > self._max_image_age_s:
            raise TimeoutError(f"the newest image of {name} is {now - taken:.1f} s old")
        if name not in self._images or not _is_same(image, self._images[name][0]):
            self._images[name] = image, now, position
            return
        _, since, position_then = self._images[name]
        if now - since > self._max_image_age_s and np.abs(position - position_then).max() > _MOVED:
            raise TimeoutError(f"{name} has given the same image for {now - since:.1f} s while the arm moved")


def _is_same(image: np.ndarray, other: np.ndarray) -> bool:
    """True if two images are equal to the bit. Those of real cameras never are, and most differ in the first pixels."""
    sparse = slice(None, None, _STRIDE)
    return np.array_equal(image[sparse, sparse], other[sparse, sparse]) and np.array_equal(image, other)


class ArmSession:
    """Connection of one run to an arm, which is left without torque in the end.

    Args:
        robot: not yet connected.
        limits: of the arm.
        dry_run: nothing is sent, and the torque is off.

    Raises UserError if the robot's positions are not in the units of its limits.

    Attributes:
        problems: faults while disconnecting, one line each; empty if the arm is limp and everything is closed.
    """

    def __init__(self, robot: Robot, limits: SafetyLimits, dry_run: bool = False) -> None:
        check_limits(robot, limits)
        self.robot, self.problems = robot, list[str]()
        self._limits, self._dry_run = limits, dry_run
        self._keys = [f"{joint}.pos" for joint in limits.joints]
        self._servos: FeetechServos | None = None
        self._guard: Guard | None = None

    @contextlib.contextmanager
    def connected(self) -> Iterator[None]:
        """Connect the arm for the block. Raises UserError if it does not connect or fails, once it is safe."""
        check_port(self.robot)
        with self._guarded():
            with raised_priority():  # LeRobot gives a servo 50 ms to answer
                connect_arm(self.robot)
            fault: UserError | None = None
            try:
                with arm_errors(self.robot), self._limited_torque():
                    if self._dry_run and (bus := servo_bus(self.robot)) is not None:
                        bus.disable_torque(num_retry=2)
                    yield
            except UserError as error:
                fault = error
                raise
            finally:
                self.problems = disconnect_arm(self.robot)
                self._report_problems(fault)

    def _report_problems(self, fault: UserError | None) -> None:
        """Raise the fault that ended the run with all problems in its line; log them if nothing else is reported."""
        if fault is not None and self.problems:
            raise UserError("; ".join([str(fault), *self.problems])) from fault
        for problem in self.problems:
            logger.error(problem)

    def arm(self, is_possible: Callable[[np.ndarray, float], bool] | None = None) -> RobotArm:
        """Arm for one control loop; its memory of images begins anew. is_possible: see `SafetyLayer.is_possible`."""
        max_age_s = self._limits.watchdog.picture_s
        return RobotArm(self.robot, max_age_s, self._servos, self._guard, self._dry_run, is_possible)

    @contextlib.contextmanager
    def driven(self) -> Iterator[None]:
        """Raise the thread's priority, and have the guard expect signs of life, inside the block."""
        with raised_priority(), contextlib.nullcontext() if self._guard is None else self._guard.watching():
            yield

    def position(self, observation: dict[str, Any] | None = None) -> np.ndarray:
        """Position of the joints, (joints,), in an observation, by default a new one."""
        if observation is None:
            observation = self.observation()
        return np.array([observation[key] for key in self._keys], dtype=float)

    def observation(self) -> dict[str, Any]:
        """Observation of an arm at rest, with the positions of the one before. Raises UserError if they go on jumping.

        One wrong reading here would become the pose that a motion starts from.
        """
        before = self._observe()
        for _ in range(_READINGS):
            observation = self._observe()
            if agree(self.position(before), self.position(observation)):
                return observation
            before = observation
        raise UserError(
            "the arm's positions jump from reading to reading; check its cable and power supply, and that it is at rest"
        )

    def settled_observation(self) -> dict[str, Any]:
        """Observation all of whose images were taken after this call."""
        for camera in robot_cameras(self.robot).values():
            for _ in range(2):  # the first may have been on its way
                camera.async_read(timeout_ms=1000)
        return self.observation()

    def _observe(self) -> dict[str, Any]:
        """Observation of an arm at rest, which may take longer than a tick."""
        end = time.monotonic() + _PATIENCE_S
        while True:
            try:
                return self.robot.get_observation()
            except ConnectionError:
                if time.monotonic() > end or port_is_gone(self.robot):
                    raise

    @contextlib.contextmanager
    def _limited_torque(self) -> Iterator[None]:
        """Restore the servos' torque limits at the end of the block."""
        if (bus := feetech_bus(self.robot)) is None:
            yield
            return
        self._servos = FeetechServos(bus, off=self._dry_run)
        self._servos.restore()  # whatever a run that was killed has left
        try:
            yield
        finally:
            with contextlib.suppress(OSError, RuntimeError):  # an arm that does not answer keeps its limits
                self._servos.set_torque(0)  # first: an arm held at half its torque must not get all of it now
                self._servos.restore()

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        """Have a second process cut the torque should this one die; it runs before the torque is on."""
        bus, limits = feetech_bus(self.robot), self._limits
        delay_s = limits.emergency_stop.torque_off_s
        if bus is None or self._dry_run or delay_s is None:
            yield
            return
        ids = [motor.id for motor in bus.motors.values()]
        with Guard(bus.port, ids, delay_s, limits.watchdog.retreat_s) as self._guard:
            yield
