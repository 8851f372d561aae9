"""Newest frame of a camera in a file that processes map: one writes, any number read, and none waits."""

import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

_HEADER = np.dtype(
    [("version", "<i8"), ("stamp", "<f8"), ("number", "<i8"), ("height", "<i4"), ("width", "<i4")]
)  # version is odd while an image is being written


class Frame(NamedTuple):
    """Frame of a camera.

    Attributes:
        image: uint8 (H, W, 3).
        stamp: time when it was taken, on time.perf_counter's clock.
        number: of the frame, counted from 1.
    """

    image: np.ndarray
    stamp: float
    number: int


def _map(path: Path, mode: str, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    size = _HEADER.itemsize + height * width * 3
    memory = np.memmap(path, np.uint8, mode, shape=(size,))  # type: ignore[call-overload]
    return memory[: _HEADER.itemsize].view(_HEADER), memory[_HEADER.itemsize :].reshape(height, width, 3)


class FrameWriter:
    """Creates the file and writes images of one size into it."""

    def __init__(self, path: Path, height: int, width: int):
        self._header, self._image = _map(path, "w+", height, width)
        self._header["height"], self._header["width"] = height, width

    def write(self, image: np.ndarray, stamp: float) -> None:
        """Replace the frame. stamp: time when it was taken, on time.perf_counter's clock."""
        self._header["version"] += 1
        self._image[:] = image
        self._header["stamp"] = stamp
        self._header["number"] += 1
        self._header["version"] += 1


class FrameReader:
    """Reads the newest frame of a FrameWriter, usually in another process.

    Raises FileNotFoundError if no writer has created the file.
    """

    def __init__(self, path: Path):
        header = np.fromfile(path, _HEADER, 1)
        if not len(header):
            raise FileNotFoundError(path)
        self._header, self._image = _map(path, "r", int(header["height"][0]), int(header["width"][0]))

    @property
    def number(self) -> int:
        """Number of the newest frame; 0 before the first."""
        return int(self._header["number"][0])

    def read(self) -> Frame:
        """Copy of the newest frame."""
        while True:
            before = int(self._header["version"][0])
            if before % 2 == 0:
                frame = Frame(self._image.copy(), float(self._header["stamp"][0]), self.number)
                if int(self._header["version"][0]) == before:
                    return frame
            time.sleep(0.0001)
