"""The terminal that a program was started from, read key by key."""

import contextlib
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def unbuffered_keys() -> Iterator[int | None]:
    """Have the terminal hand over every key at once, not echoed, for the while.

    Gives the file descriptor to read keys from; None without a terminal, which has none.
    """
    if not sys.stdin or not sys.stdin.isatty():
        yield None
        return
    import termios
    import tty

    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    tty.setcbreak(terminal)
    try:
        yield terminal
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)
