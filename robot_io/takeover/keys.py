"""Keys of the terminal while an arm runs."""

import contextlib
import os
import select
import threading
from collections.abc import Callable, Iterator, Mapping

from ..terminal import unbuffered_keys

_EVERY = 0.05  # seconds between two looks at whether to leave


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
