"""What is plugged in: serial ports with the servos that answer on them, and cameras with a picture each."""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import serial

from tinyvla.files import write_whole

from ..diagnosis import GET_PERMISSION, ping, usb_ports

_IDS = range(1, 8)  # of the servos of the arms that LeRobot knows, and one beyond


class FoundArm(NamedTuple):
    """A serial port. ids: of the Feetech servos that answer on it; trouble: why it could not be asked."""

    port: str
    ids: list[int]
    trouble: str = ""

    def __str__(self) -> str:
        if self.trouble:
            return f"{self.port}: {self.trouble}"
        if not self.ids:
            return f"{self.port}: no Feetech servo answers; is the arm's power supply on?"
        return f"{self.port}: Feetech servos with the ids {', '.join(map(str, self.ids))}"


class FoundCamera(NamedTuple):
    """A camera that gives pictures. setting: what to write for it in robot.cameras; picture: the file of one."""

    setting: str
    picture: Path

    def __str__(self) -> str:
        return f"{self.setting}  # see {self.picture}"


def find_arms(ports: Sequence[str] | None = None) -> list[FoundArm]:
    """Ask every USB serial port, or `ports`, for servos. Only such ports are written to, a ping an id."""
    found = []
    for port in usb_ports() if ports is None else ports:
        if not os.access(port, os.R_OK | os.W_OK):
            found.append(FoundArm(port, [], f"no permission; {GET_PERMISSION}"))
            continue
        try:
            found.append(FoundArm(port, [number for number in _IDS if ping(port, number) != "silent"]))
        except (serial.SerialException, OSError) as error:
            found.append(FoundArm(port, [], f"cannot be opened ({error}); does another program use it?"))
    return found


def find_cameras(folder: Path) -> list[FoundCamera]:
    """Every OpenCV camera that gives a picture, which is written to `folder`, so that one sees which is which."""
    import cv2
    from lerobot.cameras.opencv import OpenCVCamera, OpenCVCameraConfig

    found = []
    for number, about in enumerate(OpenCVCamera.find_cameras()):
        profile = about["default_stream_profile"]
        width, height, fps = profile["width"], profile["height"], round(profile["fps"]) or 30
        camera = OpenCVCamera(OpenCVCameraConfig(about["id"], fps=fps, width=width, height=height))
        with contextlib.suppress(ConnectionError, TimeoutError, RuntimeError, OSError):
            camera.connect()  # a device that gives no picture is none: many cameras show up twice
            try:
                picture = cv2.imencode(".png", cv2.cvtColor(camera.read(), cv2.COLOR_RGB2BGR))[1].tobytes()
            finally:
                camera.disconnect()
            size = f"width: {width}, height: {height}, fps: {fps}"
            setting = f"{{type: opencv, index_or_path: {about['id']}, {size}}}"
            found.append(FoundCamera(setting, write_whole(folder / f"camera{number}.png", picture)))
    return found
