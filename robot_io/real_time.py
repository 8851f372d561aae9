"""Thread priority and garbage collector settings for the control loop and the twin."""

import contextlib
import gc
import os
import threading
from collections.abc import Iterator

_PRIORITY = -10  # nice value of the thread; the default is 0


def raise_priority() -> int | None:
    """Raise the priority of this thread where the system allows it; threads started from it inherit it.

    Returns the nice value from before, None if nothing was changed.
    """
    with contextlib.suppress(OSError, AttributeError):
        thread = threading.get_native_id()
        before = os.getpriority(os.PRIO_PROCESS, thread)
        os.setpriority(os.PRIO_PROCESS, thread, _PRIORITY)
        return before
    return None


@contextlib.contextmanager
def raised_priority() -> Iterator[None]:
    """Raise the priority of this thread inside the block, where the system allows it."""
    before = raise_priority()
    try:
        yield
    finally:
        if before is not None:
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), before)


@contextlib.contextmanager
def frozen_gc() -> Iterator[None]:
    """Collect garbage now, and exclude the objects that survived from collections inside the block.

    A program with torch and a policy has so many objects that one full collection takes about 0.3 s, ten ticks at
    30 Hz, and stops every thread.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
