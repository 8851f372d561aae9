"""Worker processes for collecting and evaluating."""

import contextlib
import errno
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple

from tinyvla.errors import UserError

LOCAL: Mapping[str, Any] = {"name": "local"}  # the `launcher` configuration of processes on this machine


def count_workers(workers: int | str | None, launcher: Mapping[str, Any] = LOCAL) -> int:
    """Workers asked for; "auto" or None is one a core, of the cluster if there is one.

    Raises UserError unless it is a positive number, or if there is no such cluster.
    """
    if workers not in (None, "auto"):
        if not str(workers).isdecimal() or int(workers) < 1:
            raise UserError(f"workers is {workers!r}; use auto or a number from 1")
        return int(workers)
    if launcher["name"] == "ray":
        from .ray_pool import count_cluster_cores

        return count_cluster_cores(launcher)
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


class Folder(NamedTuple):
    """A folder that workers read, where they see the same disk as the process that sends them work."""

    path: Path

    @contextlib.contextmanager
    def opened(self) -> Iterator[Path]:
        """Where the folder lies for the worker, within the block."""
        yield self.path


def send_folder(pool: Executor, path: Path) -> Any:
    """What gives the workers of a pool a folder of this machine's: a value with the method `opened` of `Folder`."""
    return getattr(pool, "send_folder", Folder)(path)


@contextlib.contextmanager
def worker_pool(workers: int, launcher: Mapping[str, Any] = LOCAL) -> Iterator[Executor]:
    """Worker processes of the `launcher` configuration: on this machine, or on all nodes of a Ray cluster.

    Raises UserError if the workers cannot be had, keep dying, or raise one themselves.
    """
    if launcher["name"] == "ray":
        from .ray_pool import ray_pool

        with clear_disk_errors(), ray_pool(workers, launcher) as pool:
            yield pool
    else:
        with _process_pool(workers) as pool:
            yield pool


@contextlib.contextmanager
def _process_pool(workers: int) -> Iterator[Executor]:
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
