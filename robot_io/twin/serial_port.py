"""The host's end of the bus: a pseudo-terminal that looks like a USB serial adapter, with the timing of the line."""

import contextlib
import os
import select
import termios
import tty
from collections import deque
from pathlib import Path

import numpy as np

from ..feetech.protocol import Parser
from .bus import Bus

_SPEEDS = {getattr(termios, name): int(name[1:]) for name in dir(termios) if name[0] == "B" and name[1:].isdigit()}
_SILENCE = 0.005  # seconds after which a servo gives up on an unfinished packet
_CHUNK = 4096


class SerialPort:
    """A serial port with servos on it. `path` is a link to the terminal and stays the same when it is pulled and put
    back, like /dev/serial/by-id. All times are seconds of one monotonic clock.

    drop, corrupt: probability for each byte, either way, to get lost or to have a bit flipped. late: seconds added to
    every answer. counts: packets received, answers sent, answers given up because the host had spoken again.
    """

    def __init__(self, bus: Bus, path: Path, rng: np.random.Generator):
        self.bus, self.path = bus, path
        self.drop = self.corrupt = self.late = 0.0
        self.counts = {"instructions": 0, "answers": 0, "given_up": 0}
        self._rng = rng
        self._parser = Parser()
        self._last_heard = 0.0
        self._answers: deque[tuple[float, bytes]] = deque()  # (when it is out, what)
        self._master = self._slave = -1
        self.plug()

    @property
    def plugged(self) -> bool:
        return self._master >= 0

    def plug(self) -> None:
        """Put the cable in: a terminal appears."""
        if self.plugged:
            return
        # Holding the far end open as well keeps the terminal alive while no program has it open.
        self._master, self._slave = os.openpty()
        tty.setraw(self._slave)
        os.set_blocking(self._master, False)
        self.path.unlink(missing_ok=True)
        self.path.symlink_to(os.ttyname(self._slave))

    def unplug(self) -> None:
        """Pull the cable: the terminal is gone, and whoever has it open gets errors."""
        if not self.plugged:
            return
        self.path.unlink(missing_ok=True)
        os.close(self._slave)
        os.close(self._master)
        self._master = self._slave = -1
        self._answers.clear()
        self._parser.clear()

    @property
    def fileno(self) -> int:
        """What to wait on for instructions; -1 while unplugged."""
        return self._master

    @property
    def baud_rate(self) -> int:
        """The speed that the host has set, 0 if it is none of the usual ones."""
        return _SPEEDS.get(termios.tcgetattr(self._slave)[5], 0)

    @property
    def next_due(self) -> float:
        """When an answer has to go out, inf if none waits."""
        return self._answers[0][0] if self._answers else float("inf")

    def receive(self, now: float) -> None:
        """Take in what the host has sent, and let the servos do it."""
        if now - self._last_heard > _SILENCE:
            self._parser.clear()
        self._last_heard = now
        try:
            data = os.read(self._master, _CHUNK)
        except OSError:  # nothing there after all
            return
        for packet in self._parser.feed(self._disturb(data)):
            self.counts["instructions"] += 1
            # A host waits for its answers: one that speaks again has given them up.
            self.counts["given_up"] += len(self._answers)
            self._answers.clear()
            for delay, answer in self.bus.answer(packet, self.baud_rate):
                self._answers.append((now + delay + self.late, answer))

    def send(self, now: float) -> None:
        """Send the answers that are due."""
        while self._answers and self._answers[0][0] <= now:
            data = self._disturb(self._answers.popleft()[1])
            self.counts["answers"] += 1
            with contextlib.suppress(BlockingIOError):  # nobody reads: the line does not wait
                os.write(self._master, data)

    def _disturb(self, data: bytes) -> bytes:
        if not (self.drop or self.corrupt):
            return data
        line = np.frombuffer(data, np.uint8).copy()
        flipped = self._rng.random(len(line)) < self.corrupt
        line[flipped] ^= (1 << self._rng.integers(0, 8, flipped.sum())).astype(np.uint8)
        return line[self._rng.random(len(line)) >= self.drop].tobytes()


def wait(readable: list[int], seconds: float) -> list[int]:
    """Those of the file descriptors that can be read, after at most `seconds`: to the microsecond, unlike epoll."""
    return select.select(readable, [], [], max(0.0, seconds))[0]
