"""Camera of the twin, with LeRobot's camera interface."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from lerobot.cameras import Camera, CameraConfig
from lerobot.utils.errors import DeviceAlreadyConnectedError, DeviceNotConnectedError

from tinyvla.errors import UserError

from ..frames import Frame, FrameReader

_POLL = 0.001  # seconds
_WARMUP = 10.0  # seconds for the twin to draw its first image


@CameraConfig.register_subclass("twin")
@dataclass(kw_only=True)
class TwinCameraConfig(CameraConfig):
    """Configuration of a camera of the twin.

    Args:
        folder: of the running twin, as simulate_arm.py prints it.
        camera: name of one of the cameras that the twin draws.
    """

    folder: str
    camera: str = "front"


class TwinCamera(Camera):
    """Reads the images that a twin draws of its arm, RGB uint8 (height, width, 3).

    Attributes:
        latest_timestamp: time of the last returned image, on time.perf_counter's clock.
    """

    def __init__(self, config: TwinCameraConfig):
        super().__init__(config)
        self.config = config
        self.height: int | None = config.height
        self.width: int | None = config.width
        self.latest_timestamp: float | None = None
        self._reader: FrameReader | None = None
        self._last_number = 0

    def __str__(self) -> str:
        return f"TwinCamera({self.config.camera})"

    @property
    def is_connected(self) -> bool:
        return self._reader is not None

    @staticmethod
    def find_cameras() -> list[dict[str, Any]]:
        """Empty list: a twin's cameras are named in its configuration."""
        return []

    def connect(self, warmup: bool = True) -> None:
        """Connect. Raises UserError if no twin draws this camera, or in another size."""
        if self.is_connected:
            raise DeviceAlreadyConnectedError(f"{self} is already connected.")
        path = Path(self.config.folder) / f"{self.config.camera}.frames"
        try:
            reader = FrameReader(path)
        except FileNotFoundError as error:
            raise UserError(
                f"no twin draws the camera {self.config.camera!r} in {self.config.folder}; name it in robot.cameras "
                "when the twin starts"
            ) from error
        height, width = reader.read().image.shape[:2]
        if (self.height or height, self.width or width) != (height, width):
            raise UserError(
                f"the twin draws {self.config.camera!r} {width}x{height}, not {self.width}x{self.height}; "
                "set the camera's width and height to that"
            )
        self.height, self.width = height, width
        self._reader, self._last_number = reader, 0
        if warmup:
            self.async_read(_WARMUP * 1000)

    def read(self) -> np.ndarray:
        """Next image."""
        return self.async_read(_WARMUP * 1000)

    def async_read(self, timeout_ms: float = 200) -> np.ndarray:
        """Image that was not returned before. Raises TimeoutError if none comes in time."""
        deadline = time.perf_counter() + timeout_ms / 1000
        reader = self._connected()
        while reader.number == self._last_number:
            if time.perf_counter() > deadline:
                raise TimeoutError(f"{self} has drawn nothing new for {timeout_ms:.0f} ms")
            time.sleep(_POLL)
        return self._take(reader.read())

    def read_latest(self, max_age_ms: int = 500) -> np.ndarray:
        """Newest image, at once. Raises TimeoutError if it is older than `max_age_ms`."""
        frame = self._connected().read()
        age = (time.perf_counter() - frame.stamp) * 1000
        if age > max_age_ms:
            raise TimeoutError(f"{self}'s newest image is {age:.0f} ms old; {max_age_ms} ms are allowed")
        return self._take(frame)

    def disconnect(self) -> None:
        self._connected()
        self._reader = None

    def _take(self, frame: Frame) -> np.ndarray:
        self._last_number, self.latest_timestamp = frame.number, frame.stamp
        return frame.image

    def _connected(self) -> FrameReader:
        if self._reader is None:
            raise DeviceNotConnectedError(f"{self} is not connected.")
        return self._reader
