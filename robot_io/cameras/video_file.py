"""A video file in place of a camera, as LeRobot's robots use cameras: for rehearsals and tests."""

import contextlib
import time
from dataclasses import dataclass
from typing import Any

import av
import numpy as np
from lerobot.cameras import Camera, CameraConfig
from lerobot.utils.errors import DeviceAlreadyConnectedError, DeviceNotConnectedError

from tinyvla.errors import UserError


@CameraConfig.register_subclass("video_file")
@dataclass(kw_only=True)
class VideoFileCameraConfig(CameraConfig):
    """Configuration of a video file as a camera.

    Args:
        path: file that FFmpeg reads; its size and rate are those of the camera where they are not given.
        loop: begin again at the end; without it the last image grows old.
    """

    path: str
    loop: bool = True
    width: int | None = None
    height: int | None = None

    def __post_init__(self) -> None:
        if None in (self.width, self.height):  # a robot says its images' sizes before it is connected
            with contextlib.suppress(av.FFmpegError, OSError, IndexError), av.open(self.path) as container:
                stream = container.streams.video[0]
                self.width, self.height = self.width or stream.width, self.height or stream.height


class VideoFileCamera(Camera):
    """Plays a video in real time as RGB uint8 (height, width, 3).

    It plays `fps` images per second, by default the rate of the file, scaled to width and height if they are given.

    Attributes:
        latest_timestamp: time at which the last returned image was due, on time.perf_counter's clock.
    """

    def __init__(self, config: VideoFileCameraConfig):
        super().__init__(config)
        self.config = config
        self.fps: int | None = config.fps
        self.height: int | None = config.height
        self.width: int | None = config.width
        self.latest_timestamp: float | None = None
        self._container: Any = None
        self._frames: Any = None
        self._image: np.ndarray | None = None
        self._shown = self._returned = -1  # numbers of the current image and of the last one returned
        self._start = 0.0
        self._ended = False

    def __str__(self) -> str:
        return f"VideoFileCamera({self.config.path})"

    @property
    def is_connected(self) -> bool:
        return self._container is not None

    @staticmethod
    def find_cameras() -> list[dict[str, Any]]:
        """Empty list: any video file may be a camera."""
        return []

    def connect(self, warmup: bool = True) -> None:
        """Connect. Raises UserError if the file is not a video."""
        if self.is_connected:
            raise DeviceAlreadyConnectedError(f"{self} is already connected.")
        try:
            self._container = av.open(self.config.path)
            stream = self._container.streams.video[0]
        except (av.FFmpegError, OSError, IndexError) as error:
            self._container = None
            raise UserError(
                f"{self.config.path} is not a readable video; give the camera's path another file"
            ) from error
        self.fps = self.fps or round(float(stream.average_rate or 30))
        self.width, self.height = self.width or stream.width, self.height or stream.height
        self._frames = self._container.decode(video=0)
        self._shown = self._returned = -1
        self._ended = False
        self._start = time.perf_counter()
        self._advance()

    def read(self) -> np.ndarray:
        """Next image."""
        return self.async_read(2000)

    def async_read(self, timeout_ms: float = 200) -> np.ndarray:
        """Image that was not returned before. Raises TimeoutError if none is due in time."""
        deadline = time.perf_counter() + timeout_ms / 1000
        self._advance()
        while self._shown == self._returned:
            if self._ended or time.perf_counter() > deadline:
                raise TimeoutError(f"{self} has shown nothing new for {timeout_ms:.0f} ms")
            time.sleep(0.001)
            self._advance()
        return self._take()

    def read_latest(self, max_age_ms: int = 500) -> np.ndarray:
        """Image that is due now. Raises TimeoutError if the file ended more than `max_age_ms` ago."""
        self._advance()
        age = (time.perf_counter() - self._due(self._shown)) * 1000
        if self._ended and age > max_age_ms:
            raise TimeoutError(f"{self} ended {age:.0f} ms ago; {max_age_ms} ms are allowed")
        return self._take()

    def disconnect(self) -> None:
        self._check()
        self._container.close()
        self._container = self._frames = None

    def _due(self, number: int) -> float:
        return self._start + number / (self.fps or 30)

    def _advance(self) -> None:
        """Decode up to the image that is due."""
        self._check()
        while not self._ended and self._due(self._shown + 1) <= time.perf_counter():
            frame = next(self._frames, None)
            if frame is None and self.config.loop and self._image is not None:
                self._container.seek(0)
                self._frames = self._container.decode(video=0)
                frame = next(self._frames, None)
            if frame is None:
                self._ended = True
                return
            self._shown += 1
            self._image = frame.to_ndarray(format="rgb24", width=self.width, height=self.height)

    def _take(self) -> np.ndarray:
        assert self._image is not None
        self._returned, self.latest_timestamp = self._shown, self._due(self._shown)
        return self._image

    def _check(self) -> None:
        if self._container is None:
            raise DeviceNotConnectedError(f"{self} is not connected.")
