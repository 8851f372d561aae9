"""Keys of the terminal that a program was started from."""

import contextlib
import os
import select
import sys
import threading
from collections.abc import Callable, Iterator, Mapping

_POLL_S = 0.05  # seconds between two checks whether to stop listening


@contextlib.contextmanager
def unbuffered_keys() -> Iterator[int | None]:
    """Make the terminal deliver every key at once and without echo inside the block.

    Yields the file descriptor to read keys from; None without a terminal.
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


class KeyListener:
    """Calls the action of a key when it is pressed, from a thread of its own. Actions must be short.

    Args:
        actions: by key; other keys do nothing.
        lost: called once if the terminal can no longer be read.
    """

    def __init__(self, actions: Mapping[str, Callable[[], object]], lost: Callable[[], object] = lambda: None) -> None:
        self._actions, self._lost = dict(actions), lost

    def press(self, key: str) -> None:
        """Do what pressing the key does."""
        if action := self._actions.get(key):
            action()

    @contextlib.contextmanager
    def listen(self) -> Iterator[None]:
        """Read keys of the terminal inside the block; without a terminal nothing happens."""
        with unbuffered_keys() as terminal:
            if terminal is None:
                yield
                return
            leaving = threading.Event()
            thread = threading.Thread(target=self._read, args=(terminal, leaving), name="keys", daemon=True)
            thread.start()
            try:
                yield
            finally:
                leaving.set()
                thread.join()

    def _read(self, terminal: int, leaving: threading.Event) -> None:
        while not leaving.is_set():
            if not select.select([terminal], [], [], _POLL_S)[0]:
                continue
            try:
                keys = os.read(terminal, 64).decode(errors="ignore")
            except OSError:  # of a terminal that was closed
                keys = ""
            if not keys:
                self._lost()
                return
            for key in keys:
                self.press(key)
