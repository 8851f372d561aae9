"""Worker processes for collecting and evaluating."""

import contextlib
import errno
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple

from tinyvla.errors import UserError
from tinyvla.machine import check_workers, count_cores

from .launcher import LOCAL, FolderSender, LauncherConfig


def count_workers(workers: int | str | None, launcher: LauncherConfig = LOCAL) -> int:
    """Number of workers; "auto" or None is one per core of this machine, or of the cluster.

    Raises UserError if it is not a positive number, or the cluster cannot be reached.
    """
    check_workers(workers)
    if workers not in (None, "auto"):
        return int(workers)
    if launcher.name == "ray":
        from .ray_pool import count_cluster_cores

        return count_cluster_cores(launcher)
    return count_cores()


@contextlib.contextmanager
def one_core_each() -> Iterator[None]:
    """Limit worker processes started inside to one core each, including their software renderers."""
    one_core = {"OMP_NUM_THREADS": "1", "LP_NUM_THREADS": "0"}  # Mesa: only the thread that draws
    before = {name: os.environ.get(name) for name in one_core}
    os.environ.update(one_core)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


@contextlib.contextmanager
def clear_disk_errors() -> Iterator[None]:
    """Raise UserError for a full disk, which libraries report in many ways."""
    try:
        yield
    except Exception as error:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or os.strerror(errno.ENOSPC) in str(error):
            raise UserError(
                "the disk is full; free some space and run the same command again: finished work is kept"
            ) from error
        raise


def _begin_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    threading.Thread(target=_end_with, args=(multiprocessing.parent_process(),), daemon=True).start()


def _end_with(parent: Any) -> None:
    parent.join()
    os._exit(1)  # without its parent it would wait for work forever


class Folder(NamedTuple):
    """A folder for workers that share the disk of the process that sends them work."""

    path: Path

    @contextlib.contextmanager
    def opened(self) -> Iterator[Path]:
        """Path of the folder for the worker, within the block."""
        yield self.path


def send_folder(pool: Executor, path: Path) -> Any:
    """A folder of this machine for the workers of a pool: a value with the method `opened` of `Folder`."""
    return pool.send_folder(path) if isinstance(pool, FolderSender) else Folder(path)


@contextlib.contextmanager
def worker_pool(workers: int, launcher: LauncherConfig = LOCAL) -> Iterator[Executor]:
    """Worker processes of the `launcher` configuration: on this machine, or on all nodes of a Ray cluster.

    Raises UserError if the workers cannot be started, keep dying, or raise UserError themselves.
    """
    if launcher.name == "ray":
        from .ray_pool import ray_pool

        with clear_disk_errors(), ray_pool(workers, launcher) as pool:
            yield pool
    else:
        with _process_pool(workers) as pool:
            yield pool


@contextlib.contextmanager
def _process_pool(workers: int) -> Iterator[Executor]:
    """New processes that leave Ctrl-C to the parent and end with it. They inherit the GL backend, selected here.

    Raises UserError if there is no GL backend, or a process dies.
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
            "finished work is kept; workers=1 needs the least memory"
        ) from error
    except KeyboardInterrupt:
        print("\nstopped; run the same command again to continue", flush=True)
        for process in list(pool._processes.values()):
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
