"""Steps of a setup over a line that loses packets: each is repeated, and the port is closed in the end."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ..diagnosis import reports_fault

_TRIES = 6
_PAUSE = 0.05  # seconds between two tries
_AGREE = 12  # steps by which two readings of a servo at rest may differ


@contextlib.contextmanager
def open_bus(device: Any, handshake: bool = True) -> Iterator[Any]:
    """Bus of an arm or a leader with its port open for the block. Torque stays as it is, also at the end.

    handshake: every servo has to answer, and to be of the right model.
    """
    bus = device.bus

    def connect() -> None:
        close(bus)
        bus.connect(handshake=handshake)

    try:
        repeat(connect, bus)
        yield bus
    finally:
        close(bus)


def close(bus: Any) -> None:
    """Close the port, whatever state it is in."""
    bus.port_handler.is_using = False
    if bus.is_connected:
        with contextlib.suppress(Exception):
            bus.disconnect(disable_torque=False)
    bus.port_handler.is_open = False


def repeat[T](action: Callable[[], T], bus: Any) -> T:
    """Result of an action that may be done again when a packet is lost. Raises its error if it never succeeds."""
    for _ in range(_TRIES - 1):
        try:
            return action()
        except (ConnectionError, RuntimeError) as error:
            if reports_fault(error):
                raise
            reset(bus)
            time.sleep(_PAUSE)
    return action()


def reset(bus: Any) -> None:
    """Drop what a lost packet has left on the line."""
    bus.port_handler.is_using = False
    with contextlib.suppress(Exception):
        bus.port_handler.ser.reset_input_buffer()


def read_positions(bus: Any, joints: Sequence[str] | None = None) -> dict[str, int]:
    """Positions in encoder steps, independent of the calibration. Raises ConnectionError if a servo does not answer."""
    return bus.sync_read("Present_Position", joints, normalize=False, num_retry=2)


def steady_positions(bus: Any) -> dict[str, int]:
    """Positions of an arm at rest, in encoder steps: two readings that agree, so that no wrong one is taken."""
    before = repeat(lambda: read_positions(bus), bus)
    while True:
        now = repeat(lambda: read_positions(bus), bus)
        if all(abs(now[joint] - before[joint]) <= _AGREE for joint in now):
            return now
        before = now
        time.sleep(_PAUSE)


def silent_joints(device: Any) -> list[str]:
    """Joints of an arm or a leader whose servo does not answer under its id."""
    with open_bus(device, handshake=False) as bus:
        return [joint for joint in bus.motors if bus.ping(joint, num_retry=2) is None]
