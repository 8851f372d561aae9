"""Diagnosis of an arm in one line: port, permission, servos, calibration, cables."""

import contextlib
import re
import termios
from collections.abc import Iterator
from glob import glob
from pathlib import Path
from typing import Any

import serial
from lerobot.robots import Robot

from tinyvla.errors import UserError, one_line

from .arms import feetech_bus, servo_bus
from .feetech.protocol import ErrorBit, Instruction, Packet, Parser, pack

GET_PERMISSION = "run: sudo usermod -aG dialout $USER, then log in again"
_PORTS = ("/dev/ttyACM*", "/dev/ttyUSB*", "/dev/tty.usb*")
_PATIENCE = 0.03  # seconds that a servo has to answer a ping
_PINGS = 3


@contextlib.contextmanager
def arm_errors(robot: Robot, connecting: bool = False) -> Iterator[None]:
    """Turn errors of LeRobot and the serial port inside the block into one UserError that names the fix.

    connecting: the block connects the robot, so that an error without relation to servos comes from a camera.
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
    bus, text = serial_bus(robot), str(error)
    port = getattr(robot.config, "port", None)
    if port_is_gone(robot):
        return f"the port {port} is gone; put the USB cable back, wait for the port and run the command again"
    if "motor check failed" in text:
        return _explain_servos(robot, port, wrong_model="incorrect model" in text)
    if "firmware" in text:
        return "the servos have different firmware; bring all to the newest with Feetech's program"
    if reports_fault(error):
        return f"{_motor(bus, text)} reports a fault: {_fault(text)}"
    if sender := re.search(r"It answers as id (\d+)", text):
        return (
            f"{_motor(bus, text)} answers as id {sender[1]}; give each servo its own id: robot_setup.py "
            "step=motors, one servo connected at a time"
        )
    if "status packet" in text:
        return (
            f"{_motor(bus, text)} does not answer, or not readably; check its cable and those before it, then the power"
            " supply"
        )
    if isinstance(error, serial.SerialException | termios.error) or "Could not connect on port" in text:
        cause = error.__cause__ or error
        return f"the port {port} failed: {one_line(cause, None)}; is another program using it, or the cable loose?"
    if connecting or isinstance(error, TimeoutError):
        return f"a camera failed: {one_line(error, None)}; robot_setup.py step=cameras lists those that work"
    return None


def port_is_gone(robot: Robot) -> bool:
    """True if there is no device at the robot's port, as after its cable was pulled."""
    port = getattr(robot.config, "port", None)
    return isinstance(port, str) and not Path(port).exists()


def usb_ports() -> list[str]:
    """Names of the serial ports at USB."""
    return sorted(path for pattern in _PORTS for path in glob(pattern))


def _explain_servos(robot: Robot, port: Any, wrong_model: bool) -> str:
    """Explain which servos fail, by pings in Feetech's protocol; other servos get a general hint."""
    bus = feetech_bus(robot)
    if bus is None:
        return f"not all servos of {robot} were found on {port}; check power supply and cables"
    answers = {motor: ping(port, bus.motors[motor].id) for motor in bus.motors}
    if "answers" in answers.values():  # so the line works, and silence may be a lost packet
        answers = {motor: _ping_again(port, bus.motors[motor].id, answer) for motor, answer in answers.items()}
    named = {motor: f"{motor} (id {bus.motors[motor].id})" for motor in bus.motors}
    garbled = [named[motor] for motor, answer in answers.items() if answer == "garbled"]
    missing = [named[motor] for motor, answer in answers.items() if answer == "silent"]
    if faulty := [motor for motor, answer in answers.items() if answer == "faulty"]:
        servos = ", ".join(named[motor] for motor in faulty)
        if any(_error_byte(port, bus.motors[motor].id) & ErrorBit.OVERLOAD for motor in faulty):
            return (
                f"{servos} reports an overload although the torque is off; free the joint, then switch the arm's power "
                "off and on, which clears the fault"
            )
        return f"{servos} reports a fault; let it cool down, free its joint, check the power supply"
    if garbled:
        silent = f" while {', '.join(missing)} is missing" if missing else ""
        return (
            f"two servos answer as {', '.join(garbled)}{silent}; give each its own id: robot_setup.py step=motors, "
            "one servo connected at a time"
        )
    if len(missing) == len(named):
        return f"no servo answers on {port}; switch the arm's power supply on and check that this is its port"
    if missing:
        return (
            f"{', '.join(missing)} does not answer on {port}; check its cables, or give it its id: robot_setup.py "
            "step=motors"
        )
    if wrong_model:
        return (
            f"a servo on {port} is of another model than {robot} has; exchange it, or set robot.type to the right arm"
        )
    return f"packets get lost between {port} and its servos; check the cables and the power supply, then try again"


def ping(port: str, servo_id: int, baud_rate: int = 1_000_000) -> str:
    """Result of a ping to a Feetech servo.

    "answers", "faulty" (it reports an error), "silent", or "garbled", as with two servos of the same id.
    """
    received = _pinged(port, servo_id, baud_rate)
    if not received:
        return "silent"
    match Parser().feed(received):
        case [Packet(id=sender, code=error)] if sender == servo_id:
            return "faulty" if error else "answers"
    return "garbled"


def _error_byte(port: str, servo_id: int) -> int:
    """Error byte in a servo's answer to a ping, 0 if it does not answer."""
    return next((packet.code for packet in Parser().feed(_pinged(port, servo_id)) if packet.id == servo_id), 0)


def _pinged(port: str, servo_id: int, baud_rate: int = 1_000_000) -> bytes:
    """Bytes that come after a ping; SerialException if another program has locked the port (`port_lock`)."""
    with serial.Serial(port, baud_rate, timeout=_PATIENCE, exclusive=True) as line:
        line.reset_input_buffer()
        line.write(pack(Packet(servo_id, Instruction.PING)))
        return line.read(6) + line.read(250)


def _ping_again(port: str, servo_id: int, answer: str) -> str:
    """Ping a servo more often, since packets get lost: one answer is enough."""
    answers = [answer, *(ping(port, servo_id) for _ in range(_PINGS) if answer != "answers")]
    return next((kind for kind in ("answers", "faulty", "garbled") if kind in answers), "silent")


def serial_bus(robot: Robot) -> Any:
    """Serial bus of a robot's servos; None for robots without one."""
    bus = servo_bus(robot)
    return bus if hasattr(bus, "port_handler") else None  # LeRobot's base classes do not declare it


def reports_fault(error: Exception) -> bool:
    """Return True if a servo has answered with its error byte set."""
    return "[RxPacketError]" in str(error)


def _fault(text: str) -> str:
    if "Overload" in text:
        return "overload; free the joint and run the command again; if it stays, switch the arm's power off and on"
    if "Overheat" in text:
        return "it is too hot; let it cool down"
    if "voltage" in text:
        return "its voltage is wrong; check the power supply"
    return text.rpartition("[RxPacketError] ")[2]


def _motor(bus: Any, text: str) -> str:
    """Name of the servo in a message of LeRobot."""
    if (number := re.search(r"id_=(\d+)", text)) and bus is not None:
        for motor, entry in bus.motors.items():
            if entry.id == int(number[1]):
                return motor
    return "a servo"
