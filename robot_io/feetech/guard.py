"""Process that releases an arm whose control program has died or hangs.

An STS3215 has no watchdog: it holds its last goal, with torque, until it receives another instruction. A program that
was killed sends none, so a second process does, which lives as long as the machine.
"""

import contextlib
import json
import os
import select
import signal
import sys
import termios
import time
from collections.abc import Iterator, Sequence

import serial

from tinyvla.processes import ChildProcess, report_ready

from ..torque import GAP_S, TIMES
from .line import Line, NoAnswer
from .protocol import BROADCAST, Instruction, Packet, pack
from .registers import REGISTERS

_BEAT, _WATCH, _PAUSE, _LEAVE = b".", b"1", b"0", b"q"
_TORQUE = REGISTERS["Torque_Enable"].address
_BAUD_RATE = 1_000_000
_PATIENCE = 0.03  # seconds that a servo has to answer
_TRIES_S = 10.0  # seconds for which silent servos, or a port that is gone, are tried again
_POLL = 0.05  # seconds between two looks at the clock


class Guard:
    """Guard that cuts the torque of the servos on a port once this process has died, or a loop under watch hangs.

    Args:
        port: of the servos.
        ids: of the servos.
        delay_s: seconds until the torque is cut, from the death of this process or from the time a loop hangs.
        silence_s: seconds without a sign of life after which a loop hangs.
    """

    def __init__(self, port: str, ids: Sequence[int], delay_s: float, silence_s: float) -> None:
        self._process = ChildProcess(serve)
        self._pipe = self._process.stdin.fileno()
        os.write(self._pipe, json.dumps([port, list(ids), delay_s, silence_s]).encode() + b"\n")
        self._process.wait_until_ready("the process that guards the arm")
        os.set_blocking(self._pipe, False)

    def __enter__(self) -> "Guard":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Dismiss the guard, unless Ctrl-C has interrupted the code that was to release the arm."""
        dismissed = kind is None or issubclass(kind, Exception)
        if dismissed:
            self._send(_LEAVE)
            self._process.close()
        else:  # the guard works on while this process ends
            self._process.stdin.close()
            self._process.stdout.close()

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Watch the loop inside the block, which has to give signs of life."""
        self._send(_WATCH)
        try:
            yield
        finally:
            self._send(_PAUSE)

    def beat(self) -> None:
        """Give a sign of life."""
        self._send(_BEAT)

    def _send(self, message: bytes) -> None:
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            os.write(self._pipe, message)


def serve() -> None:
    """Run the process: its settings come as one line of JSON, then the messages of a `Guard`."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # it ends when the other process has
    port, ids, delay_s, silence_s = json.loads(sys.stdin.buffer.raw.readline())  # type: ignore[union-attr]
    report_ready()
    watch(sys.stdin.fileno(), port, ids, delay_s, silence_s)


def watch(pipe: int, port: str, ids: Sequence[int], delay_s: float, silence_s: float) -> None:
    """Listen to a `Guard` until it leaves, and release the arm when it falls silent."""
    watching, heard_at = False, time.monotonic()
    while True:
        if select.select([pipe], [], [], _POLL)[0]:
            messages = os.read(pipe, 4096)
            heard_at = time.monotonic()
            if messages.endswith(_LEAVE):
                return
            if not messages:
                time.sleep(delay_s)
                let_go(port, ids)
                return
            if calls := messages.replace(_BEAT, b""):
                watching = calls.endswith(_WATCH)
        elif watching and time.monotonic() - heard_at > silence_s + delay_s:
            let_go(port, ids)
            watching = False  # once: a loop that works again finds its arm limp, and stops


def let_go(port: str, ids: Sequence[int], tries_s: float = _TRIES_S) -> list[int]:
    """Cut the torque of servos, again and again until each confirms it; returns the ids of those that never did."""
    left, end = list(ids), time.monotonic() + tries_s
    while left and time.monotonic() < end:
        with contextlib.suppress(OSError, termios.error), serial.Serial(port, _BAUD_RATE, timeout=_PATIENCE) as line:
            servos = Line(lambda _: _PATIENCE)
            while left and time.monotonic() < end:
                _switch_off(line)
                left = [servo for servo in left if not _is_off(servos, line, servo)]
        time.sleep(_POLL)
    return left


def _switch_off(line: serial.Serial) -> None:
    """Cut the torque as `robot_io.torque.cut_torque`, without LeRobot, which takes seconds to import."""
    for _ in range(TIMES):
        line.write(pack(Packet(BROADCAST, Instruction.WRITE, bytes([_TORQUE, 0]))))
        time.sleep(GAP_S)


def _is_off(servos: Line, line: serial.Serial, servo: int) -> bool:
    try:
        return servos.read_one(line, servo, _TORQUE, 1, any_sender=True).value(_TORQUE, 1) == 0
    except NoAnswer:
        return False
