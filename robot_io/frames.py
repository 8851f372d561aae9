"""The newest picture of a camera in a file that two processes map: one writes, any number read, nobody waits."""

import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

_HEADER = np.dtype(
    [("version", "<i8"), ("stamp", "<f8"), ("number", "<i8"), ("height", "<i4"), ("width", "<i4")]
)  # version is odd while a picture is being written


class Frame(NamedTuple):
    """picture: uint8 (H, W, 3). stamp: when it was taken, on time.perf_counter's clock. number: counts up."""

    picture: np.ndarray
    stamp: float
    number: int


def _map(path: Path, mode: str, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    size = _HEADER.itemsize + height * width * 3
    memory = np.memmap(path, np.uint8, mode, shape=(size,))  # type: ignore[call-overload]
    return memory[: _HEADER.itemsize].view(_HEADER), memory[_HEADER.itemsize :].reshape(height, width, 3)


class FrameWriter:
    """Creates the file and puts pictures of one size into it."""

    def __init__(self, path: Path, height: int, width: int):
        self._header, self._picture = _map(path, "w+", height, width)
        self._header["height"], self._header["width"] = height, width

    def write(self, picture: np.ndarray, stamp: float) -> None:
        """Replace the picture; `stamp` is when it was taken, on time.perf_counter's clock."""
        self._header["version"] += 1
        self._picture[:] = picture
        self._header["stamp"] = stamp
        self._header["number"] += 1
        self._header["version"] += 1


class FrameReader:
    """Reads what a FrameWriter, most often of another process, has written last.

    Raises FileNotFoundError if no writer has made the file.
    """

    def __init__(self, path: Path):
        header = np.fromfile(path, _HEADER, 1)
        if not len(header):
            raise FileNotFoundError(path)
        self._header, self._picture = _map(path, "r", int(header["height"][0]), int(header["width"][0]))

    @property
    def number(self) -> int:
        """Of the newest picture; 0 before the first."""
        return int(self._header["number"][0])

    def read(self) -> Frame:
        """A copy of the newest picture."""
        while True:
            before = int(self._header["version"][0])
            if before % 2 == 0:
                frame = Frame(self._picture.copy(), float(self._header["stamp"][0]), self.number)
                if int(self._header["version"][0]) == before:
                    return frame
            time.sleep(0.0001)
