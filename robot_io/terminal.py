"""The terminal that a program was started from, read key by key."""

import contextlib
import os
import select
import sys
import threading
from collections.abc import Callable, Iterator, Mapping

_EVERY = 0.05  # seconds between two looks at whether to leave


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


class Keys:
    """Calls what belongs to a key when it is pressed, from a thread of its own. What a key does must be short."""

    def __init__(self, actions: Mapping[str, Callable[[], object]]) -> None:
        self._actions = dict(actions)

    def press(self, key: str) -> None:
        """As if the key had been pressed; one without an action does nothing."""
        if action := self._actions.get(key):
            action()

    @contextlib.contextmanager
    def read(self) -> Iterator[None]:
        """Read keys of the terminal for the while, which does not echo them then. Without a terminal there are none."""
        with unbuffered_keys() as terminal:
            if terminal is None:
                yield
                return
            leaving = threading.Event()

            def listen() -> None:
                while not leaving.is_set():
                    if select.select([terminal], [], [], _EVERY)[0]:
                        for key in os.read(terminal, 64).decode(errors="ignore"):
                            self.press(key)

            thread = threading.Thread(target=listen, name="keys", daemon=True)
            thread.start()
            try:
                yield
            finally:
                leaving.set()
                thread.join()
