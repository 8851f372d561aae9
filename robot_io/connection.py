"""Connecting an arm once all of it has been checked, and letting go of it whatever has failed."""

import contextlib
import os
import re
import time
from pathlib import Path
from typing import Any

from lerobot.robots import Robot
from lerobot.utils.errors import DeviceNotConnectedError

from tinyvla.errors import UserError

from .diagnosis import GET_PERMISSION, arm_errors, bus_of, one_line, reports_fault, usb_ports
from .torque import cut_torque

_ATTEMPTS = 3
_LET_GO_S = 3.0  # seconds for which servos are told to let go that have not said that they did
_PAUSE = 0.05  # seconds between two such rounds
_LOST_PACKET = re.compile("status packet|motor check failed")


def connect_arm(robot: Robot) -> None:
    """Open port and cameras, check servos and calibration, and switch torque on; nothing moves before all is well.

    Raises UserError, with everything closed again, for: no such port, no permission, servos that are missing, silent,
    of another model or share an id, no calibration, the calibration of another arm, a camera that does not start.
    """
    with arm_errors(robot, connecting=True):
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return _connect(robot)
            except (ConnectionError, RuntimeError) as error:
                # LeRobot gives up at the first packet that is lost while it connects.
                if attempt == _ATTEMPTS or not _LOST_PACKET.search(str(error)):
                    raise


def _connect(robot: Robot) -> None:
    check_port(robot)
    if (bus := bus_of(robot)) is not None:
        try:  # torque stays as it is found until all is well
            bus.connect()
            _check_calibration(robot)
        finally:
            _close_port(bus)
    try:
        robot.connect(calibrate=False)
    except BaseException:
        disconnect_arm(robot)
        raise


def disconnect_arm(robot: Robot) -> list[str]:
    """Cut the torque of every servo that can be reached and close everything that can be closed, whatever fails.

    Returns what did not work, one line each; empty if the arm is limp and all is closed.
    """
    problems = []
    if (bus := bus_of(robot)) is None:
        try:
            robot.disconnect()
        except DeviceNotConnectedError:
            pass
        except Exception as error:
            problems.append(f"{robot} did not disconnect: {one_line(error)}")
        return problems
    if bus.is_connected:
        problems += [
            f"{motor} did not confirm that its torque is off: {error}; cut the arm's power"
            for motor, error in _let_go(bus).items()
        ]
        _close_port(bus)
    for name, camera in getattr(robot, "cameras", {}).items():
        try:
            if camera.is_connected:
                camera.disconnect()
        except Exception as error:
            problems.append(f"the camera {name} did not close: {one_line(error)}")
    return problems


def _let_go(bus: Any) -> dict[str, str]:
    """Switch the torque of all servos off, again and again until each has said that it is; those that never did, and
    why. A port that was gone and is back is opened anew.
    """
    left, end = dict.fromkeys(bus.motors, ""), time.monotonic() + _LET_GO_S
    while left:
        before = len(left)
        with contextlib.suppress(Exception):  # reaches all at once, and nobody answers
            _quieten(bus)
            cut_torque(bus)
        for motor in list(left):
            _quieten(bus)
            try:
                bus.write("Torque_Enable", motor, 0, normalize=False)
            except Exception as error:
                if not reports_fault(error):  # a servo that reports a fault has obeyed
                    left[motor] = one_line(error)
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
    """Raise UserError if the robot's serial port is not there, or may not be used."""
    port = getattr(robot.config, "port", None)
    if not isinstance(port, str) or bus_of(robot) is None:
        return
    if not Path(port).exists():
        there = usb_ports()
        found = f"set robot.port to one of {', '.join(there)}" if there else "plug the arm in, or look for its port"
        raise UserError(f"there is no port {port}; {found} (lerobot-find-port)")
    if not os.access(port, os.R_OK | os.W_OK):
        raise UserError(f"no permission to use {port}; {GET_PERMISSION}")


def _check_calibration(robot: Robot) -> None:
    bus, file = bus_of(robot), robot.calibration_fpath
    if not robot.calibration:
        others = ", ".join(sorted(path.stem for path in file.parent.glob("*.json")))
        hint = f"set robot.id to this arm's out of {others}, or calibrate" if others else "calibrate"
        raise UserError(f"there is no calibration {file}; {hint} it with lerobot-calibrate")
    if robot.is_calibrated:
        return
    inside = bus.read_calibration()
    differing = [motor for motor in bus.motors if inside[motor] != robot.calibration.get(motor)]
    raise UserError(
        f"the servos are not calibrated as {file} says ({', '.join(differing)}): it is another arm's, or old, or a "
        "bad line has changed theirs; set robot.id to this arm's, switch the arm's power off and on, or calibrate it "
        "again with lerobot-calibrate"
    )


def _close_port(bus: Any) -> None:
    bus.port_handler.is_using = False
    with contextlib.suppress(Exception):
        bus.port_handler.closePort()
    bus.port_handler.is_open = False


def _quieten(bus: Any) -> None:
    """Forget an exchange that an error has cut short."""
    bus.port_handler.is_using = False
    with contextlib.suppress(Exception):
        bus.port_handler.ser.reset_input_buffer()
