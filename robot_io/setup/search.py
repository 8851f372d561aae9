"""Search for connected devices: serial ports with the servos that answer, and cameras with an image each."""

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
    """Serial port. ids: of the Feetech servos that answer on it. trouble: reason why it could not be used."""

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
            arms.append(FoundArm(port, [number for number in _IDS if ping(port, number) != "silent"]))
        except (serial.SerialException, OSError) as error:
            arms.append(FoundArm(port, [], f"cannot be opened ({error}); does another program use it?"))
    return arms


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
