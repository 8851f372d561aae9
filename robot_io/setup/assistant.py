"""Assistant that guides a person through the setup of an arm: devices, ids, calibration, and their check."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lerobot.robots import Robot

from tinyvla.errors import UserError

from ..diagnosis import arm_errors
from .calibration import check_calibration, joint_travel, moved_joint, turned
from .search import find_arms, find_cameras

_POLL = 0.05  # seconds between two readings while a joint is moved by hand
_REST, _AT_REST = 0.3, 1.0  # seconds between two readings; degrees of turn below which the arm is at rest


class Assistant:
    """Steps of the setup of one arm. LeRobot does the work, and stores the results where its own programs look.

    Args:
        robot: of LeRobot, not connected; None if none is chosen yet, which is enough for `find`.
        say: shows a line to the person.
        patience: seconds that a person has to move a joint.
    """

    def __init__(self, robot: Robot | None, say: Callable[[str], None] = print, patience: float = 60.0):
        self._robot, self._say, self._patience = robot, say, patience

    def find(self, images: Path) -> None:
        """List ports with servos, and cameras; an image of each camera is written to a folder."""
        arms = find_arms()
        self._say("Serial ports:" if arms else "No USB serial port; plug the arm's controller board in.")
        for arm in arms:
            self._say(f"  {arm}" + (f"  -> robot.port={arm.port}" if arm.ids else ""))
        cameras = find_cameras(images)
        self._say("Cameras, as robot.cameras takes them:" if cameras else "No camera gives an image.")
        for camera in cameras:
            self._say(f"  {camera}")

    def name_motors(self) -> None:
        """Give every servo its id, with one plugged in at a time. Once for a new arm; the ids stay in the servos."""
        robot: Any = self._arm()
        if not hasattr(robot, "setup_motors"):
            raise UserError(f"LeRobot has no way to give the motors of {robot} their ids; use their maker's program")
        with arm_errors(robot, connecting=True):
            try:
                robot.setup_motors()
            finally:
                self._close()

    def calibrate(self) -> None:
        """Calibrate with LeRobot, which stores the result under robot.id and in the servos, then check it."""
        robot: Any = self._arm()
        with arm_errors(robot, connecting=True):
            try:
                robot.bus.connect()
                robot.calibrate()
            finally:
                self._close()
        self.check_ranges()

    def check_ranges(self) -> None:
        """Raise UserError if the stored calibration cannot be this kind of arm's."""
        robot = self._arm()
        if not robot.calibration:
            raise UserError(f"there is no calibration {robot.calibration_fpath}; run step=calibrate")
        if problems := check_calibration(robot.calibration, joint_travel(robot.name)):
            raise UserError(f"the calibration {robot.calibration_fpath} cannot be right: {'; '.join(problems)}")
        self._say(f"The ranges in {robot.calibration_fpath} are plausible.")

    def check_joints(self) -> None:
        """Ask for every joint to be moved by hand, and check that only the servo of that name turns."""
        robot: Any = self._arm()
        with arm_errors(robot, connecting=True):
            try:
                robot.bus.connect()
                robot.bus.disable_torque()
                for joint in robot.bus.motors:
                    self._check_joint(robot.bus, joint)
            finally:
                self._close()
        self._say("Every servo moves the joint that it is named after.")

    def _check_joint(self, bus: Any, joint: str) -> None:
        before = self._still(bus)
        self._say(f"Move the {joint} by hand, that joint alone.")
        end = time.monotonic() + self._patience
        while (moved := moved_joint(before, _read(bus))) is None:
            if time.monotonic() > end:
                raise UserError(
                    f"no servo turned alone in {self._patience:.0f} s; move the {joint} and hold the rest, or check "
                    "that its horn is screwed on"
                )
            time.sleep(_POLL)
        if moved != joint:
            raise UserError(
                f"the {joint} was moved but the servo named {moved} turned: their cables or ids are swapped; swap the "
                "cables, or give both their ids again with step=motors"
            )

    def _still(self, bus: Any) -> dict[str, float]:
        """Reading of the arm at rest: a person may still hold the last joint."""
        end = time.monotonic() + self._patience
        before: dict[str, float] = {}
        now = _read(bus)
        while not before or turned(before, now) > _AT_REST:
            if time.monotonic() > end:
                raise UserError("the arm does not come to rest; hold it, or lay it down")
            time.sleep(_REST)
            before, now = now, _read(bus)
        return now

    def _arm(self) -> Robot:
        if self._robot is None:
            raise UserError("robot.port is not given; step=find shows the ports")
        if not hasattr(self._robot, "bus"):
            raise UserError(f"{self._robot} has no bus of servos; its maker's program, or LeRobot's, sets it up")
        return self._robot

    def _close(self) -> None:
        bus: Any = getattr(self._robot, "bus", None)
        if bus is not None and bus.is_connected:
            bus.disconnect(disable_torque=False)


def _read(bus: Any) -> dict[str, float]:
    """Positions in encoder steps, independent of the calibration."""
    return bus.sync_read("Present_Position", normalize=False, num_retry=5)
