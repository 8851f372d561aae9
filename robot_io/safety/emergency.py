"""The emergency stop: a latch that anything may press, and what presses it: a signal, a key, a button.

It stops the arm through its servos and is no substitute for a switch in the arm's power supply.
"""

import logging
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..terminal import unbuffered_keys

logger = logging.getLogger(__name__)


class EmergencyStop:
    """Stays pressed until released. May be pressed from any thread and from a signal handler."""

    def __init__(self) -> None:
        self.pressed = False
        self.source: str | None = None  # what pressed it first

    def press(self, source: str) -> None:
        """Stop the arm at its next tick."""
        if not self.pressed:
            self.source = source
            self.pressed = True

    def release(self) -> None:
        """Let go. The layer has to be started again, from where the arm is then: `SafetyLayer.resume`."""
        self.pressed = False
        self.source = None


@contextmanager
def on_interrupt(stop: EmergencyStop) -> Iterator[None]:
    """Have Ctrl-C press the stop for the while, and so SIGTERM (kill, a shutdown) and SIGHUP (the terminal is closed).

    A second one raises KeyboardInterrupt. Only the main thread can do this; Python says so with a ValueError elsewhere.
    """

    def pressed(number: int, frame: object) -> None:
        if stop.pressed:
            raise KeyboardInterrupt
        stop.press(signal.Signals(number).name)

    ending = {signal.SIGINT, signal.SIGTERM}  # what ends a program must not leave an arm in motion
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as nohup has it
        ending.add(signal.SIGHUP)
    before = {number: signal.signal(number, pressed) for number in ending}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def on_button(stop: EmergencyStop, is_pressed: Callable[[], bool], name: str, every_s: float = 0.01) -> Iterator[None]:
    """Have a button press the stop for the while, such as one at a GPIO pin or on USB.

    is_pressed: reads the button. One that raises counts as pressed, so that a cut cable stops the arm.
    """
    leaving = threading.Event()

    def watch() -> None:
        while not leaving.wait(every_s):
            try:
                pressed = is_pressed()
            except Exception as error:
                logger.warning("emergency stop: cannot read the %s: %s", name, error)
                pressed = True
            if pressed:
                stop.press(name)

    thread = threading.Thread(target=watch, name=f"emergency stop: {name}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        leaving.set()
        thread.join()


@contextmanager
def on_key(stop: EmergencyStop, keys: str = " ") -> Iterator[None]:
    """Have a key of the terminal press the stop for the while, the space bar by default; keys are not echoed then.

    Without a terminal there are no keys, and nothing happens.
    """
    with unbuffered_keys() as terminal:
        if terminal is None:
            yield
            return

        def is_pressed() -> bool:
            return bool(select.select([sys.stdin], [], [], 0)[0]) and sys.stdin.read(1) in keys

        with on_button(stop, is_pressed, "key"):
            yield
