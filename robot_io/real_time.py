"""A control loop that other programs, this one's own inference, and its memory's tidying do not keep waiting."""

import contextlib
import gc
import os
import threading
from collections.abc import Iterator

_PRIORITY = -10  # of the thread; 0 is a program's usual one


@contextlib.contextmanager
def raised_priority() -> Iterator[None]:
    """Raise the priority of this thread for the while, where the system allows it; threads started in it inherit it."""
    thread = threading.get_native_id()
    before = None
    with contextlib.suppress(OSError, AttributeError):
        usual = os.getpriority(os.PRIO_PROCESS, thread)
        os.setpriority(os.PRIO_PROCESS, thread, _PRIORITY)
        before = usual
    try:
        yield
    finally:
        if before is not None:
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, thread, before)


@contextlib.contextmanager
def frozen_gc() -> Iterator[None]:
    """Collect garbage now, and for the while leave out of collections what survived.

    A program with torch and a policy in it has so many objects that one full collection takes some 0.3 s, ten ticks at
    30 Hz, and stops every thread.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
