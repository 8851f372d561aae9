"""Connection of an arm after a check of all its parts, and its release whatever has failed."""

import contextlib
import os
import re
import time
from pathlib import Path
from typing import Any

from lerobot.robots import Robot
from lerobot.utils.errors import DeviceNotConnectedError

from tinyvla.errors import UserError, one_line

from .arms import feetech_bus, robot_cameras
from .diagnosis import GET_PERMISSION, arm_errors, reports_fault, serial_bus, usb_ports
from .feetech.protocol import ErrorBit
from .torque import confirm_torque_off, cut_torque

_ATTEMPTS = 3
_LET_GO_S = 3.0  # seconds for which torque is cut again at servos that have not confirmed it
_PAUSE = 0.05  # seconds between two attempts
_LOST_PACKET = re.compile("status packet|motor check failed")


def connect_arm(robot: Robot) -> None:
    """Open port and cameras, check servos and calibration, and switch torque on. Nothing moves before all checks pass.

    Raises UserError, with everything closed again, for: no such port, no permission, servos that are missing, silent,
    of another model or share an id, no calibration, the calibration of another arm, a camera that does not start.
    """
    with arm_errors(robot, connecting=True):
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return _connect(robot)
            except (ConnectionError, RuntimeError) as error:
                # LeRobot stops at the first packet that is lost while it connects, and at a servo with a fault.
                if attempt == _ATTEMPTS or not _LOST_PACKET.search(str(error)):
                    raise
                _end_overloads(robot)


def _connect(robot: Robot) -> None:
    check_port(robot)
    if (bus := serial_bus(robot)) is not None:
        try:  # torque stays as it is until all checks pass
            bus.connect()
            _check_calibration(robot)
        finally:
            _close_port(bus)
    try:
        robot.connect(calibrate=False)
    except BaseException:
        disconnect_arm(robot)
        raise


def _end_overloads(robot: Robot) -> None:
    """Switch off the torque of servos that report an overload, which ends it unless they keep it until a restart."""
    bus = feetech_bus(robot)
    if not hasattr(bus, "error_byte"):
        return
    with contextlib.suppress(OSError):  # the next attempt to connect fails, too, and says why
        bus.connect(handshake=False)
        try:
            for motor in bus.motors:
                with contextlib.suppress(ConnectionError):
                    if bus.error_byte(motor) & ErrorBit.OVERLOAD:
                        bus.write("Torque_Enable", motor, 0, normalize=False)
        finally:
            _close_port(bus)


def disconnect_arm(robot: Robot) -> list[str]:
    """Cut the torque of every servo that can be reached, and close port and cameras, whatever fails.

    Returns the problems, one line each; empty if the arm is limp and all is closed.
    """
    problems = []
    if (bus := serial_bus(robot)) is None:
        try:
            robot.disconnect()
        except DeviceNotConnectedError:
            pass
        except Exception as error:
            problems.append(f"{robot} did not disconnect: {one_line(error, None)}")
        return problems
    if bus.is_connected:
        unconfirmed = _release(bus)
        for reason in dict.fromkeys(unconfirmed.values()):
            motors = ", ".join(motor for motor in unconfirmed if unconfirmed[motor] == reason)
            problems.append(f"{motors} did not confirm that the torque is off ({reason}); cut the arm's power")
        _close_port(bus)
    for name, camera in robot_cameras(robot).items():
        try:
            if camera.is_connected:
                camera.disconnect()
        except Exception as error:
            problems.append(f"the camera {name} did not close: {one_line(error, None)}")
    return problems


def _release(bus: Any) -> dict[str, str]:
    """Cut the torque of all servos, again and again until each confirms it; a port that is back is opened again.

    Returns the reason for each servo that never confirmed it.
    """
    left, end = dict.fromkeys(bus.motors, ""), time.monotonic() + _LET_GO_S
    while left:
        before = len(left)
        with contextlib.suppress(Exception):  # reaches all at once, without an answer
            _reset_line(bus)
            cut_torque(bus)
        for motor in list(left):
            _reset_line(bus)
            try:
                confirm_torque_off(bus, motor)
            except Exception as error:
                if not reports_fault(error):  # a servo that reports a fault has obeyed
                    left[motor] = "no answer" if "status packet" in str(error) else one_line(error, None)
                    continue
            del left[motor]
        if time.monotonic() > end:
            break
        if len(left) == before:
            time.sleep(_PAUSE)
            with contextlib.suppress(Exception):
                _close_port(bus)
            with contextlib.suppress(Exception):
                bus.port_handler.openPort()
    return left


def check_port(robot: Robot) -> None:
    """Raise UserError if the robot's serial port does not exist, or without permission to use it."""
    port = getattr(robot.config, "port", None)
    if not isinstance(port, str) or serial_bus(robot) is None:
        return
    if not Path(port).exists():
        ports = usb_ports()
        fix = f"set robot.port to one of {', '.join(ports)}" if ports else "plug the arm in, or look for its port"
        raise UserError(f"there is no port {port}; {fix}: robot_setup.py step=find lists them")
    if not os.access(port, os.R_OK | os.W_OK):
        raise UserError(f"no permission to use {port}; {GET_PERMISSION}")


def _check_calibration(robot: Robot) -> None:
    bus, file = serial_bus(robot), robot.calibration_fpath
    if not robot.calibration:
        calibrated = ", ".join(sorted(path.stem for path in file.parent.glob("*.json")))
        other = f"set robot.id to this arm's out of {calibrated}, or " if calibrated else ""
        raise UserError(f"there is no calibration {file}; {other}calibrate it with robot_setup.py step=calibrate")
    if robot.is_calibrated:
        return
    in_servos = bus.read_calibration()
    differing = [motor for motor in bus.motors if in_servos[motor] != robot.calibration.get(motor)]
    raise UserError(
        f"the servos are not calibrated as {file} says ({', '.join(differing)}): it is another arm's, or old, or a "
        "bad line has changed theirs; set robot.id to this arm's, switch the arm's power off and on, or calibrate it "
        "again with robot_setup.py step=calibrate"
    )


def _close_port(bus: Any) -> None:
    bus.port_handler.is_using = False
    with contextlib.suppress(Exception):
        bus.port_handler.closePort()
    bus.port_handler.is_open = False


def _reset_line(bus: Any) -> None:
    """Drop an exchange that an error has interrupted."""
    bus.port_handler.is_using = False
    with contextlib.suppress(Exception):
        bus.port_handler.ser.reset_input_buffer()
