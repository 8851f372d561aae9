"""Lock of a serial port, so that one program at a time drives an arm."""

import contextlib
import fcntl
import os
from pathlib import Path
from typing import Any

from tinyvla.errors import UserError


def lock_when_opened(bus: Any) -> None:
    """Have the port of LeRobot's bus locked whenever it is opened.

    The system releases the lock when the port is closed, as it is when the process dies. Programs that do not ask for
    it can open the port all the same: the process that guards the arm, and LeRobot's own programs.
    """
    handler = bus.port_handler
    set_up = handler.setupPort

    def set_up_and_lock(baud_flag: int) -> bool:
        opened: bool = set_up(baud_flag)
        if opened:
            try:
                _lock(handler.ser.fileno(), bus.port)
            except UserError:
                handler.closePort()
                raise
        return opened

    handler.setupPort = set_up_and_lock


def _lock(descriptor: int, port: str) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = _holder(descriptor)
        if holder == os.getpid():
            raise UserError(f"{port} is given for two arms; give each its own port") from error
        process = "another program" if holder is None else f"process {holder}{_command(holder)}"
        raise UserError(f"{process} drives the arm at {port}; end it first, or give another port") from error


def _holder(descriptor: int) -> int | None:
    """Process that holds the lock of an open file; None where the system does not tell."""
    file = os.fstat(descriptor)
    device = f"{os.major(file.st_dev):02x}:{os.minor(file.st_dev):02x}:{file.st_ino}"
    with contextlib.suppress(OSError):
        for line in Path("/proc/locks").read_text().splitlines():
            if " FLOCK " in line and device in line.split() and (number := line.split()[4]).isdecimal():
                return int(number) or None
    return None


def _command(process: int) -> str:
    with contextlib.suppress(OSError):
        words = Path(f"/proc/{process}/cmdline").read_text().split("\0")
        return f" ({' '.join(Path(word).name for word in words[:2])})"
    return ""
