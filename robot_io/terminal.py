"""Keys of the terminal that a program was started from."""

import contextlib
import os
import re
import select
import sys
import threading
from collections.abc import Callable, Iterator, Mapping

ESCAPE, RIGHT = "escape", "right"  # names of keys that send more than a character
_POLL_S = 0.05  # seconds between two checks whether to stop listening, and until a lone Esc is one
_SEQUENCE = re.compile(r"\x1b[\[O][0-9;]*[A-Za-z~]|.", re.DOTALL)  # an escape sequence is one key
_NAMES = {"\x1b": ESCAPE, "\x1b[C": RIGHT, "\x1bOC": RIGHT}


def split_keys(text: str) -> list[str]:
    """Names of the keys that a terminal has sent: a character, or "escape", "right" or another escape sequence."""
    return [_NAMES.get(key, key) for key in _SEQUENCE.findall(text)]


def has_terminal() -> bool:
    """True if a person can press keys at this program's terminal."""
    return bool(sys.stdin and sys.stdin.isatty())


@contextlib.contextmanager
def unbuffered_keys() -> Iterator[int | None]:
    """Make the terminal deliver every key at once and without echo inside the block.

    Yields the file descriptor to read keys from; None without a terminal.
    """
    if not has_terminal():
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
        actions: by key as `split_keys` names it; other keys do nothing.
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
                if keys.endswith("\x1b") and select.select([terminal], [], [], _POLL_S)[0]:
                    keys += os.read(terminal, 64).decode(errors="ignore")  # the rest of an escape sequence
            except OSError:  # of a terminal that was closed
                keys = ""
            if not keys:
                self._lost()
                return
            for key in split_keys(keys):
                self.press(key)
