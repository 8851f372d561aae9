"""A process that lets go of an arm whose control program has died or hangs.

An STS3215 has no watchdog: it holds the last goal that it was given, with torque, until it is told otherwise. A program
that was killed tells it nothing, so another one has to, which lives as long as the machine does.
"""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Sequence

import serial

from ..torque import GAP_S, TIMES
from .protocol import BROADCAST, Instruction, Packet, Parser, pack
from .registers import REGISTERS

_READY, _BEAT, _WATCH, _PAUSE, _LEAVE = "ready", b".", b"1", b"0", b"q"
_TORQUE = REGISTERS["Torque_Enable"].address
_BAUD_RATE = 1_000_000
_PATIENCE = 0.03  # seconds that a servo has to answer
_TRIES_S = 10.0  # seconds for which servos that do not answer, or a port that is gone, are tried again
_LOOK = 0.05  # seconds between two looks at the clock


class Guard:
    """Cuts the torque of the servos on a port once this process has died, or a loop that it watches over hangs.

    Args:
        port: of the servos.
        ids: of the servos.
        delay_s: from this process's death, or from when a loop counts as hanging, until the torque is cut.
        silence_s: a loop that gives no sign of life for so long hangs.
    """

    def __init__(self, port: str, ids: Sequence[int], delay_s: float, silence_s: float) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", "from robot_io.feetech.guard import serve; serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            start_new_session=True,  # what ends this process must not end it
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._pipe = self._process.stdin.fileno()
        os.write(self._pipe, json.dumps([port, list(ids), delay_s, silence_s]).encode() + b"\n")
        if self._process.stdout.readline().decode().strip() != _READY:
            raise RuntimeError("the process that guards the arm has not started")
        os.set_blocking(self._pipe, False)

    def __enter__(self) -> "Guard":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """There is nothing left to guard, unless Ctrl-C has interrupted who was to let go of the arm."""
        dismissed = kind is None or issubclass(kind, Exception)
        if dismissed:
            self._tell(_LEAVE)
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        if dismissed:
            self._process.wait()

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Expect signs of life for the while."""
        self._tell(_WATCH)
        try:
            yield
        finally:
            self._tell(_PAUSE)

    def beat(self) -> None:
        """A sign of life."""
        self._tell(_BEAT)

    def _tell(self, what: bytes) -> None:
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            os.write(self._pipe, what)


def serve() -> None:
    """The process."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # it ends when the other process has
    port, ids, delay_s, silence_s = json.loads(sys.stdin.buffer.raw.readline())  # type: ignore[union-attr]
    print(_READY, flush=True)
    watch(sys.stdin.fileno(), port, ids, delay_s, silence_s)


def watch(pipe: int, port: str, ids: Sequence[int], delay_s: float, silence_s: float) -> None:
    """Listen to a `Guard` until it leaves, and let go of the arm when it falls silent."""
    watching, heard = False, time.monotonic()
    while True:
        if select.select([pipe], [], [], _LOOK)[0]:
            told = os.read(pipe, 4096)
            heard = time.monotonic()
            if told.endswith(_LEAVE):
                return
            if not told:
                time.sleep(delay_s)
                let_go(port, ids)
                return
            if calls := told.replace(_BEAT, b""):
                watching = calls.endswith(_WATCH)
        elif watching and time.monotonic() - heard > silence_s + delay_s:
            let_go(port, ids)
            watching = False  # once: a loop that comes to life again finds its arm limp, and stops


def let_go(port: str, ids: Sequence[int], tries_s: float = _TRIES_S) -> list[int]:
    """Cut the torque of servos, again and again until each has said that it is off; those that never did."""
    left, end = list(ids), time.monotonic() + tries_s
    while left and time.monotonic() < end:
        with contextlib.suppress(OSError, termios.error), serial.Serial(port, _BAUD_RATE, timeout=_PATIENCE) as line:
            while left and time.monotonic() < end:
                _switch_off(line)
                left = [servo for servo in left if not _is_off(line, servo)]
        time.sleep(_LOOK)
    return left


def _switch_off(line: serial.Serial) -> None:
    """What `robot_io.torque.cut_torque` does, without LeRobot, which takes seconds to import."""
    for _ in range(TIMES):
        line.write(pack(Packet(BROADCAST, Instruction.WRITE, bytes([_TORQUE, 0]))))
        time.sleep(GAP_S)


def _is_off(line: serial.Serial, servo: int) -> bool:
    line.reset_input_buffer()
    line.write(pack(Packet(servo, Instruction.READ, bytes([_TORQUE, 1]))))
    answers = Parser().feed(line.read(7))
    return any(answer.id == servo and answer.parameters == b"\0" for answer in answers)
