"""What is wrong with an arm, in one line: port, permission, servos, calibration, cables."""

import contextlib
import re
import termios
from collections.abc import Iterator
from glob import glob
from pathlib import Path
from typing import Any

import serial
from lerobot.robots import Robot

from tinyvla.errors import UserError

from .feetech.protocol import Instruction, Packet, Parser, pack

GET_PERMISSION = "run: sudo usermod -aG dialout $USER, then log in again"
_PORTS = ("/dev/ttyACM*", "/dev/ttyUSB*", "/dev/tty.usb*")
_PATIENCE = 0.03  # seconds that a servo has to answer a ping
_PINGS = 3


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
    bus, text = bus_of(robot), str(error)
    port = getattr(robot.config, "port", None)
    if isinstance(port, str) and not Path(port).exists():
        return f"the port {port} is gone; put the USB cable back, wait for the port and run the command again"
    if "motor check failed" in text:
        return _explain_servos(robot, port, wrong_model="incorrect model" in text)
    if "firmware" in text:
        return "the servos have different firmware; bring all to the newest with Feetech's program"
    if reports_fault(error):
        return f"{_motor(bus, text)} reports a fault: {_fault(text)}"
    if "status packet" in text:
        return (
            f"{_motor(bus, text)} does not answer, or not readably; check its cable and those before it, then the power"
            " supply"
        )
    if isinstance(error, serial.SerialException | termios.error) or "Could not connect on port" in text:
        cause = error.__cause__ or error
        return f"the port {port} failed: {one_line(cause)}; is another program using it, or the cable loose?"
    if connecting or isinstance(error, TimeoutError):
        return f"a camera failed: {one_line(error)}; lerobot-find-cameras lists those that work"
    return None


def usb_ports() -> list[str]:
    """Serial ports at USB, by name."""
    return sorted(path for pattern in _PORTS for path in glob(pattern))


def _explain_servos(robot: Robot, port: Any, wrong_model: bool) -> str:
    """Which servos are not as they should be. The bus speaks Feetech's protocol here, else LeRobot's word is taken."""
    bus = bus_of(robot)
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


def bus_of(robot: Robot) -> Any:
    """The robot's one servo bus, None if it is not built that way."""
    bus = getattr(robot, "bus", None)
    return bus if hasattr(bus, "port_handler") else None


def reports_fault(error: Exception) -> bool:
    """Whether a servo has answered, and with its error byte set."""
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


def one_line(error: BaseException) -> str:
    """An error's message."""
    return " ".join(str(error).split()) or type(error).__name__
