"""Worker processes for collecting and evaluating."""

import contextlib
import errno
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from tinyvla.errors import UserError


def count_workers(workers: int | str | None) -> int:
    """Worker processes asked for; "auto" or None is one a core. Raises UserError unless it is a positive number."""
    if workers not in (None, "auto"):
        if not str(workers).isdecimal() or int(workers) < 1:
            raise UserError(f"workers is {workers!r}; use auto or a number from 1")
        return int(workers)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def one_core_each() -> Iterator[None]:
    """Worker processes started inside keep to one core each, their software renderers included."""
    one_core = {"OMP_NUM_THREADS": "1", "LP_NUM_THREADS": "0"}  # Mesa: none beside the thread that draws
    before = {name: os.environ.get(name) for name in one_core}
    os.environ.update(one_core)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


@contextlib.contextmanager
def clear_disk_errors() -> Iterator[None]:
    """Turn a full disk, which libraries report in many ways, into one UserError."""
    try:
        yield
    except Exception as error:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or os.strerror(errno.ENOSPC) in str(error):
            raise UserError(
                "the disk is full; free some space and run the same command again: what was finished is kept"
            ) from error
        raise


def _begin_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    threading.Thread(target=_end_with, args=(multiprocessing.parent_process(),), daemon=True).start()


def _end_with(parent: Any) -> None:
    parent.join()
    os._exit(1)  # nobody waits for this process's results, and it would wait for work for ever


@contextlib.contextmanager
def worker_pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Fresh processes that leave Ctrl-C to the parent and end with it; a dead one is one clear error.

    They inherit the GL backend, chosen here. Raises UserError if there is none.
    """
    from .rendering import select_gl_backend

    select_gl_backend()
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _begin_worker)
    try:
        with clear_disk_errors(), one_core_each():  # processes start as work arrives
            yield pool
    except BrokenProcessPool as error:
        raise UserError(
            "a worker process died (killed, or out of memory); run the same command again: "
            "what was finished is kept; workers=1 needs the least memory"
        ) from error
    except KeyboardInterrupt:
        print("\nstopped; run the same command again to go on where this stopped", flush=True)
        for process in list(pool._processes.values()):
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
