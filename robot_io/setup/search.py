"""Search for connected devices: serial ports with the servos that answer, running twins, cameras with an image each."""

import contextlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import serial

from tinyvla.files import write_whole

from ..diagnosis import GET_PERMISSION, ping, usb_ports
from ..feetech.protocol import Instruction, Packet, Parser, pack
from ..feetech.registers import REGISTERS
from .calibration import turned

_IDS = range(1, 8)  # of the servos of the arms that LeRobot knows, and one beyond
_ARM = [1, 2, 3, 4, 5, 6]
_FOLLOWER_VOLTS = 9.0  # leaders have servos for 5 to 7.4 V, some followers have a supply of 12 V
_MOVED = 15.0  # degrees by which a person moves the leader to tell it from the follower
_IN_A_ROW = 3  # readings that must agree on it
_PATIENCE = 0.03  # seconds that a servo has to answer
_POLL_S = 0.05


class FoundArm(NamedTuple):
    """Serial port. ids: of the Feetech servos that answer on it. volts: of their supply, None if no servo reports it.

    trouble: reason why it could not be used.
    """

    port: str
    ids: list[int]
    trouble: str = ""
    volts: float | None = None

    @property
    def is_arm(self) -> bool:
        return self.ids == _ARM

    @property
    def is_follower(self) -> bool:
        """True if its supply is more than a leader's servos bear; False if that is not known."""
        return self.volts is not None and self.volts > _FOLLOWER_VOLTS

    def __str__(self) -> str:
        if self.trouble:
            return f"{self.port}: {self.trouble}"
        if not self.ids:
            return f"{self.port}: no Feetech servo answers; is the arm's power supply on?"
        volts = "" if self.volts is None else f", {self.volts:.1f} V"
        follower = ", so it is a follower" if self.is_follower else ""
        return f"{self.port}: Feetech servos with the ids {', '.join(map(str, self.ids))}{volts}{follower}"


class FoundCamera(NamedTuple):
    """Camera that gives images. setting: its section in robot.cameras. image: file of one image."""

    setting: str
    image: Path

    def __str__(self) -> str:
        return f"{self.setting}  # see {self.image}"


def find_arms(ports: Sequence[str] | None = None) -> list[FoundArm]:
    """Ping servos on every USB serial port, or on `ports`, once per id. Other ports are not written to."""
    arms = []
    for port in usb_ports() if ports is None else ports:
        if not os.access(port, os.R_OK | os.W_OK):
            arms.append(FoundArm(port, [], f"no permission; {GET_PERMISSION}"))
            continue
        try:
            ids = [number for number in _IDS if ping(port, number) != "silent"]
            arms.append(FoundArm(port, ids, volts=_voltage(port, ids)))
        except (serial.SerialException, OSError) as error:
            arms.append(FoundArm(port, [], f"cannot be opened ({error}); does another program use it?"))
    return arms


def moved_port(ports: Sequence[str], skipped: Callable[[], bool], patience: float) -> str | None:
    """Port of the arm that a person moves by hand; None after `patience` seconds, or once `skipped` returns True.

    Only positions are read. Raises OSError if a port fails.
    """
    first: dict[str, dict[str, float]] = {port: {} for port in ports}
    moved = dict.fromkeys(ports, 0)  # readings in a row
    end = time.monotonic() + patience
    while time.monotonic() < end and not skipped():
        for port in ports:
            now = {str(number): _register(port, number, "Present_Position") for number in _ARM}
            positions = {joint: float(position) for joint, position in now.items() if position is not None}
            before = {joint: first[port].setdefault(joint, position) for joint, position in positions.items()}
            moved[port] = moved[port] + 1 if before and turned(before, positions) > _MOVED else 0
            if moved[port] == _IN_A_ROW:
                return port
        time.sleep(_POLL_S)
    return None


def _voltage(port: str, ids: Sequence[int]) -> float | None:
    readings = [_register(port, number, "Present_Voltage") for number in ids]
    return next((reading / 10 for reading in readings if reading is not None), None)


def _register(port: str, servo: int, name: str) -> int | None:
    """Unsigned value of a Feetech servo's register; None without a readable answer."""
    register = REGISTERS[name]
    with serial.Serial(port, 1_000_000, timeout=_PATIENCE) as line:
        line.reset_input_buffer()
        line.write(pack(Packet(servo, Instruction.READ, bytes([register.address, register.size]))))
        answers = Parser().feed(line.read(6 + register.size))
    values = [answer.parameters for answer in answers if answer.id == servo]
    return int.from_bytes(values[0], "little") if values and len(values[0]) == register.size else None


def find_cameras(folder: Path) -> list[FoundCamera]:
    """Find every OpenCV camera that gives an image, which is written to `folder` to tell the cameras apart."""
    import cv2
    from lerobot.cameras.opencv import OpenCVCamera, OpenCVCameraConfig

    cameras = []
    for number, about in enumerate(OpenCVCamera.find_cameras()):
        profile = about["default_stream_profile"]
        width, height, fps = profile["width"], profile["height"], round(profile["fps"]) or 30
        camera = OpenCVCamera(OpenCVCameraConfig(about["id"], fps=fps, width=width, height=height))
        with contextlib.suppress(ConnectionError, TimeoutError, RuntimeError, OSError):
            camera.connect()  # a device without images is left out: many cameras are listed twice
            try:
                image = cv2.imencode(".png", cv2.cvtColor(camera.read(), cv2.COLOR_RGB2BGR))[1].tobytes()
            finally:
                camera.disconnect()
            size = f"width: {width}, height: {height}, fps: {fps}"
            setting = f"{{type: opencv, index_or_path: {about['id']}, {size}}}"
            cameras.append(FoundCamera(setting, write_whole(folder / f"camera{number}.png", image)))
    return cameras


def cameras_setting(sections: Mapping[str, str]) -> str:
    """Setting robot.cameras, quoted for the shell, from sections by name."""
    return "'robot.cameras={" + ", ".join(f"{name}: {section}" for name, section in sections.items()) + "}'"


def section_text(section: Mapping[str, Any]) -> str:
    """Section of a camera as one types it."""
    return "{" + ", ".join(f"{key}: {value}" for key, value in section.items()) + "}"
