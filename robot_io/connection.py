"""Connecting an arm, and what is wrong with it in one line: port, permission, servos, calibration, cables."""

import contextlib
import os
import re
import termios
import time
from collections.abc import Iterator
from glob import glob
from pathlib import Path
from typing import Any

import serial
from lerobot.robots import Robot
from lerobot.utils.errors import DeviceNotConnectedError

from tinyvla.errors import UserError

from .feetech.protocol import Instruction, Packet, Parser, pack

GET_PERMISSION = "run: sudo usermod -aG dialout $USER, then log in again"
_PORTS = ("/dev/ttyACM*", "/dev/ttyUSB*", "/dev/tty.usb*")
_PATIENCE = 0.03  # seconds that a servo has to answer a ping
_PINGS = _ATTEMPTS = 3
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
    _check_port(robot)
    if (bus := _bus(robot)) is not None:
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
    if (bus := _bus(robot)) is None:
        try:
            robot.disconnect()
        except DeviceNotConnectedError:
            pass
        except Exception as error:
            problems.append(f"{robot} did not disconnect: {_line(error)}")
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
            problems.append(f"the camera {name} did not close: {_line(error)}")
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
            bus.sync_write("Torque_Enable", 0, normalize=False)
        for motor in list(left):
            _quieten(bus)
            try:
                bus.write("Torque_Enable", motor, 0, normalize=False)
            except Exception as error:
                if not _reports_fault(error):  # a servo that reports a fault has obeyed
                    left[motor] = _line(error)
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


@contextlib.contextmanager
def arm_errors(robot: Robot, connecting: bool = False) -> Iterator[None]:
    """Turn what LeRobot and the serial port raise inside the block into one UserError that names the fix.

    connecting: what fails and has nothing to do with servos is a camera.
    """
    try:
        yield
    except UserError:
        raise
    except (ConnectionError, TimeoutError, OSError, RuntimeError, termios.error) as error:
        message = _explain(robot, error, connecting)
        if message is None:
            raise
        raise UserError(message) from error


def _explain(robot: Robot, error: Exception, connecting: bool) -> str | None:
    bus, text = _bus(robot), str(error)
    port = getattr(robot.config, "port", None)
    if isinstance(port, str) and not Path(port).exists():
        return f"the port {port} is gone; put the USB cable back, wait for the port and run the command again"
    if "motor check failed" in text:
        return _explain_servos(robot, port, wrong_model="incorrect model" in text)
    if "firmware" in text:
        return "the servos have different firmware; bring all to the newest with Feetech's program"
    if _reports_fault(error):
        return f"{_motor(bus, text)} reports a fault: {_fault(text)}"
    if "status packet" in text:
        return (
            f"{_motor(bus, text)} does not answer, or not readably; check its cable and those before it, then the power"
            " supply"
        )
    if isinstance(error, serial.SerialException | termios.error) or "Could not connect on port" in text:
        cause = error.__cause__ or error
        return f"the port {port} failed: {_line(cause)}; is another program using it, or the cable loose?"
    if connecting or isinstance(error, TimeoutError):
        return f"a camera failed: {_line(error)}; lerobot-find-cameras lists those that work"
    return None


def usb_ports() -> list[str]:
    """Serial ports at USB, by name."""
    return sorted(path for pattern in _PORTS for path in glob(pattern))


def _check_port(robot: Robot) -> None:
    port = getattr(robot.config, "port", None)
    if not isinstance(port, str) or _bus(robot) is None:
        return
    if not Path(port).exists():
        there = usb_ports()
        found = f"set robot.port to one of {', '.join(there)}" if there else "plug the arm in, or look for its port"
        raise UserError(f"there is no port {port}; {found} (lerobot-find-port)")
    if not os.access(port, os.R_OK | os.W_OK):
        raise UserError(f"no permission to use {port}; {GET_PERMISSION}")


def _check_calibration(robot: Robot) -> None:
    bus, file = _bus(robot), robot.calibration_fpath
    if not robot.calibration:
        others = ", ".join(sorted(path.stem for path in file.parent.glob("*.json")))
        hint = f"set robot.id to this arm's out of {others}, or calibrate" if others else "calibrate"
        raise UserError(f"there is no calibration {file}; {hint} it with lerobot-calibrate")
    if robot.is_calibrated:
        return
    inside = bus.read_calibration()
    differing = [motor for motor in bus.motors if inside[motor] != robot.calibration.get(motor)]
    raise UserError(
        f"the servos are not calibrated as {file} says ({', '.join(differing)}): it is another arm's, or old; set "
        "robot.id to this arm's, or calibrate it again with lerobot-calibrate"
    )


def _explain_servos(robot: Robot, port: Any, wrong_model: bool) -> str:
    """Which servos are not as they should be. The bus speaks Feetech's protocol here, else LeRobot's word is taken."""
    bus = _bus(robot)
    if type(bus).__name__ != "FeetechMotorsBus":
        return f"not all servos of {robot} were found on {port}; check power supply and cables"
    found = {motor: _ping_patiently(port, bus.motors[motor].id) for motor in bus.motors}
    named = {motor: f"{motor} (id {bus.motors[motor].id})" for motor in bus.motors}
    garbled = [named[motor] for motor, answer in found.items() if answer == "garbled"]
    missing = [named[motor] for motor, answer in found.items() if answer == "silent"]
    if faulty := [named[motor] for motor, answer in found.items() if answer == "faulty"]:
        return f"{', '.join(faulty)} reports a fault; let it cool down, free its joint, check the power supply"
    if garbled:
        silent = f" while {', '.join(missing)} is missing" if missing else ""
        return (
            f"two servos answer as {', '.join(garbled)}{silent}; give each its own id: lerobot-setup-motors, one servo "
            "connected at a time"
        )
    if len(missing) == len(named):
        return f"no servo answers on {port}; switch the arm's power supply on and check that this is its port"
    if missing:
        return (
            f"{', '.join(missing)} does not answer on {port}; check its cables, or give it its id: lerobot-setup-motors"
        )
    if wrong_model:
        return (
            f"a servo on {port} is of another model than {robot} has; exchange it, or set robot.type to the right arm"
        )
    return f"packets get lost between {port} and its servos; check the cables and the power supply, then try again"


def ping(port: str, servo_id: int, baud_rate: int = 1_000_000) -> str:
    """How a Feetech servo takes a ping: "answers", "faulty" (it reports an error), "silent", or "garbled", as when two
    have one id."""
    with serial.Serial(port, baud_rate, timeout=_PATIENCE) as line:
        line.reset_input_buffer()
        line.write(pack(Packet(servo_id, Instruction.PING)))
        received = line.read(6) + line.read(250)
    if not received:
        return "silent"
    match Parser().feed(received):
        case [Packet(id=sender, code=error)] if sender == servo_id:
            return "faulty" if error else "answers"
    return "garbled"


def _ping_patiently(port: str, servo_id: int) -> str:
    """A servo that answers once is there, though packets get lost."""
    answers = [ping(port, servo_id) for _ in range(_PINGS)]
    return next((answer for answer in ("answers", "faulty", "garbled") if answer in answers), "silent")


def _bus(robot: Robot) -> Any:
    """The robot's one servo bus, None if it is not built that way."""
    bus = getattr(robot, "bus", None)
    return bus if hasattr(bus, "port_handler") else None


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


def _reports_fault(error: Exception) -> bool:
    return "[RxPacketError]" in str(error)


def _fault(text: str) -> str:
    if "Overload" in text:
        return "overload; free the joint, and switch torque off and on"
    if "Overheat" in text:
        return "it is too hot; let it cool down"
    if "voltage" in text:
        return "its voltage is wrong; check the power supply"
    return text.rpartition("[RxPacketError] ")[2]


def _motor(bus: Any, text: str) -> str:
    """The servo that a message of LeRobot speaks of."""
    if (number := re.search(r"id_=(\d+)", text)) and bus is not None:
        for motor, entry in bus.motors.items():
            if entry.id == int(number[1]):
                return motor
    return "a servo"


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
