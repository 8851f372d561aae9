"""Serial port of the bus: a pseudo-terminal in place of a USB adapter, with the timing of the line."""

import contextlib
import os
import select
import termios
import tty
from collections import deque
from pathlib import Path

import numpy as np

from ..feetech.protocol import HEADER, Parser, checksum
from .bus import Bus

_SPEEDS = {getattr(termios, name): int(name[1:]) for name in dir(termios) if name[0] == "B" and name[1:].isdigit()}
_SILENCE = 0.005  # seconds after which a servo drops an unfinished packet
_CHUNK = 4096


class SerialPort:
    """Serial port with servos on it. All times are seconds of one monotonic clock.

    faults: "drop" and "corrupt" are probabilities of each byte, in both directions, to get lost or to have a bit
    flipped; "late" are seconds added to every answer; "double" is the number of next answers that are sent twice.
    counts: instructions received, answers sent, and answers that were on their way when the host sent another
    instruction. These arrive all the same: the servos have sent them.

    Args:
        bus: of the servos.
        path: of a link to the terminal, which stays the same after `unplug` and `plug`, like /dev/serial/by-id.
        rng: of the faults.

    Attributes:
        senders: ids that answers carry in place of their servo's own.
        errors: error bits that answers carry beside their servo's own, by its id.
    """

    def __init__(self, bus: Bus, path: Path, rng: np.random.Generator):
        self.bus, self.path = bus, path
        self.faults = {"drop": 0.0, "corrupt": 0.0, "late": 0.0, "double": 0.0}
        self.counts = {"instructions": 0, "answers": 0, "given_up": 0}
        self.senders: dict[int, int] = {}
        self.errors: dict[int, int] = {}
        self._rng = rng
        self._parser = Parser()
        self._last_heard = 0.0
        self._answers: deque[tuple[float, bytes]] = deque()  # (time at which it is out, bytes)
        self._held_until = 0.0
        self._master = self._slave = -1
        self.plug()

    @property
    def plugged(self) -> bool:
        return self._master >= 0

    def plug(self) -> None:
        """Plug the cable in: a terminal appears."""
        if self.plugged:
            return
        # The other end stays open too, which keeps the terminal alive while no program uses it.
        self._master, self._slave = os.openpty()
        tty.setraw(self._slave)
        os.set_blocking(self._master, False)
        self.path.unlink(missing_ok=True)
        self.path.symlink_to(os.ttyname(self._slave))

    def unplug(self) -> None:
        """Pull the cable: the terminal is gone, and programs that use it get errors."""
        if not self.plugged:
            return
        self.path.unlink(missing_ok=True)
        os.close(self._slave)
        os.close(self._master)
        self._master = self._slave = -1
        self._answers.clear()
        self._held_until = 0.0
        self._parser.clear()

    @property
    def fileno(self) -> int:
        """File descriptor to wait for; -1 while unplugged."""
        return self._master

    @property
    def baud_rate(self) -> int:
        """Speed that the host has set, 0 if servos do not support it."""
        return _SPEEDS.get(termios.tcgetattr(self._slave)[5], 0)

    @property
    def next_due(self) -> float:
        """Time at which the next answer is due, inf without one."""
        return max(self._answers[0][0], self._held_until) if self._answers else float("inf")

    def hold(self, until: float) -> None:
        """Hold all bytes for the host back until then, as an adapter that stalls; their order stays."""
        self._held_until = until

    def receive(self, now: float) -> None:
        """Read the instructions of the host and let the servos execute them."""
        if now - self._last_heard > _SILENCE:
            self._parser.clear()
        self._last_heard = now
        try:
            data = os.read(self._master, _CHUNK)
        except OSError:  # there is nothing to read
            return
        for packet in self._parser.feed(self._apply_faults(data)):
            self.counts["instructions"] += 1
            self.counts["given_up"] += len(self._answers)
            before = self._answers[-1][0] if self._answers else now
            for delay, answer in self.bus.answer(packet, self.baud_rate):
                self._answers.append((max(before, now + delay + self.faults["late"]), self._altered(answer)))

    def send(self, now: float) -> None:
        """Send the answers that are due."""
        while self.next_due <= now:
            data = self._apply_faults(self._answers.popleft()[1])
            if self.faults["double"] >= 1:
                self.faults["double"] -= 1
                data += data
            self.counts["answers"] += 1
            with contextlib.suppress(BlockingIOError):  # the host does not read: the line does not wait
                os.write(self._master, data)

    def _altered(self, answer: bytes) -> bytes:
        """Exchange the id and add error bits in the answer of a servo that has such a fault."""
        _, _, servo, length, error, *_ = answer
        if servo not in self.senders | self.errors:
            return answer
        head = bytes([self.senders.get(servo, servo), length, error | self.errors.get(servo, 0)])
        body = head + answer[len(HEADER + head) : -1]
        return HEADER + body + bytes([checksum(body)])

    def _apply_faults(self, data: bytes) -> bytes:
        drop, corrupt = self.faults["drop"], self.faults["corrupt"]
        if not (drop or corrupt):
            return data
        line = np.frombuffer(data, np.uint8).copy()
        flipped = self._rng.random(len(line)) < corrupt
        line[flipped] ^= (1 << self._rng.integers(0, 8, flipped.sum())).astype(np.uint8)
        return line[self._rng.random(len(line)) >= drop].tobytes()


def wait(readable: list[int], seconds: float) -> list[int]:
    """File descriptors that can be read, after at most `seconds`. Unlike epoll, it is precise to the microsecond."""
    return select.select(readable, [], [], max(0.0, seconds))[0]
