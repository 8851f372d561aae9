"""Emergency stop: a latch, and the signals, keys and buttons that press it.

It stops the arm through its servos and does not replace a switch in the arm's power supply.
"""

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..terminal import KeyListener

logger = logging.getLogger(__name__)


class EmergencyStop:
    """Latch that stays pressed until it is released. It may be pressed from any thread and from a signal handler."""

    def __init__(self) -> None:
        self.pressed = False
        self.source: str | None = None  # name of what pressed it first

    def press(self, source: str) -> None:
        """Stop the arm at its next tick."""
        if not self.pressed:
            self.source = source
            self.pressed = True

    def release(self) -> None:
        """Release it. The layer has to be started again from the arm's position: `SafetyLayer.resume`."""
        self.pressed = False
        self.source = None


@contextmanager
def on_interrupt(stop: EmergencyStop) -> Iterator[None]:
    """Let Ctrl-C, SIGTERM (kill, a shutdown) and SIGHUP (the terminal is closed) press the stop inside the block.

    A second one raises KeyboardInterrupt. Raises ValueError outside the main thread, the only one with signals.
    """

    def pressed(number: int, frame: object) -> None:
        if stop.pressed:
            raise KeyboardInterrupt
        stop.press(signal.Signals(number).name)

    signals = {signal.SIGINT, signal.SIGTERM}  # the end of a program must not leave an arm in motion
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup ignores it
        signals.add(signal.SIGHUP)
    before = {number: signal.signal(number, pressed) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def on_button(stop: EmergencyStop, is_pressed: Callable[[], bool], name: str, every_s: float = 0.01) -> Iterator[None]:
    """Let a button press the stop inside the block, such as one at a GPIO pin or on USB.

    Args:
        is_pressed: reads the button. An error counts as pressed, so that a cut cable stops the arm.
        name: of the button, as the source of the stop.
        every_s: seconds between two readings.
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
    """Let a key of the terminal press the stop inside the block, by default the space bar; keys are not echoed then.

    Without a terminal nothing happens; a terminal that can no longer be read counts as a pressed key.
    """

    def press() -> None:
        stop.press("key")

    with KeyListener(dict.fromkeys(keys, press), lost=press).listen():
        yield
