"""Workers on a Ray cluster: episodes, and the jobs of a sweep, as tasks that Ray repeats when a node is lost."""

import atexit
import contextlib
import hashlib
import io
import logging
import os
import socket
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import OmegaConf

from tinyvla.decoding import decode_section
from tinyvla.errors import UserError, one_line
from tinyvla.extras import needs_extra

from .launcher import FolderSender, LauncherConfig

with needs_extra("ray", "launcher=ray"):
    import ray
    from ray.exceptions import RayError, RayTaskError

RETRIES = 10  # per task whose worker or node is lost
_ONE_CORE = {"OMP_NUM_THREADS": "1", "LP_NUM_THREADS": "1"}  # of torch, and of Mesa's software renderer


def connect(launcher: LauncherConfig) -> None:
    """Join the cluster of the `launcher` configuration, or start Ray on this machine. Does nothing when connected.

    Raises UserError if the cluster cannot be reached, or it has another version of Ray or Python.
    """
    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Under `uv run` Ray would copy the working folder with all its data to every node.
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    address = launcher.address
    _check_reachable(address)
    local_only: Any = {"include_dashboard": False} if address is None else {}
    try:
        ray.init(address or "local", log_to_driver=False, logging_level=logging.ERROR, **local_only)
    except (ConnectionError, ValueError, RuntimeError, RayError) as error:
        raise _no_cluster(address, one_line(error)) from error
    atexit.register(ray.shutdown)


def _check_reachable(address: str | None) -> None:
    """Fail at once; Ray itself would retry for minutes."""
    if address in (None, "auto"):
        return
    host, _, port = str(address).rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, ValueError) as error:
        raise _no_cluster(address, str(error)) from error


def _no_cluster(address: str | None, reason: str) -> UserError:
    return UserError(
        f"there is no Ray cluster at launcher.address={address} ({reason}); start one with `uv run ray start --head` "
        "and give the host:port that it prints, use launcher.address=auto on one of its nodes, or launcher=local"
    )


def count_cluster_cores(launcher: LauncherConfig) -> int:
    """CPU cores of all nodes."""
    connect(launcher)
    return max(1, int(ray.cluster_resources().get("CPU", 0)))


@dataclass(frozen=True)
class Archive:
    """A folder in Ray's object store, for workers on other machines; archives of equal content are equal."""

    digest: str
    content: Any = field(compare=False)  # an ObjectRef; only a worker that opens it fetches it

    @contextlib.contextmanager
    def opened(self) -> Iterator[Path]:
        """A copy of the folder, within the block."""
        with tempfile.TemporaryDirectory() as copy, tarfile.open(fileobj=io.BytesIO(ray.get(self.content))) as tar:
            tar.extractall(copy, filter="data")
            yield Path(copy)


class _RayPool(ThreadPoolExecutor, FolderSender):
    """Executor whose threads each wait for one task of the cluster at a time."""

    def __init__(self, workers: int, launcher: LauncherConfig):
        super().__init__(workers)
        options = {"num_cpus": 1, "num_gpus": launcher.gpus, "max_retries": RETRIES}
        self._task = ray.remote(_call).options(**options)
        self._running: set[Any] = set()

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        return super().submit(self._run, function, args, kwargs)

    def send_folder(self, path: Path) -> Archive:
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w") as tar:
            for entry in sorted(path.rglob("*")):
                tar.add(entry, entry.relative_to(path), recursive=False)
        content = file.getvalue()
        return Archive(hashlib.sha256(content).hexdigest(), ray.put(content))

    def _run(self, *call: Any) -> Any:
        reference = self._task.remote(*call)
        self._running.add(reference)
        try:
            return ray.get(reference)
        except RayTaskError as error:
            raise error.cause from error  # the function's own exception
        finally:
            self._running.discard(reference)

    def cancel(self) -> None:
        """End running tasks and start no more."""
        self.shutdown(wait=False, cancel_futures=True)
        for reference in list(self._running):
            ray.cancel(reference, force=True)


def _call(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call in a worker. Ray reuses the worker, so that module-level state (a policy, an environment) stays."""
    for name, value in _ONE_CORE.items():
        os.environ.setdefault(name, value)
    return function(*args, **kwargs)


@contextlib.contextmanager
def ray_pool(workers: int, launcher: LauncherConfig) -> Iterator[_RayPool]:
    """At most `workers` tasks at a time, each with one CPU core and a GL backend that its node selects.

    A task whose worker or node is lost is repeated elsewhere. Raises UserError if there is no cluster, or a task is
    lost too often.
    """
    connect(launcher)
    pool = _RayPool(workers, launcher)
    try:
        yield pool
    except RayError as error:
        reason = one_line(error)
        raise UserError(
            f"the Ray cluster lost a task too often ({reason}); look at its nodes and their memory, then run the same "
            "command again: finished work is kept"
        ) from error
    except KeyboardInterrupt:
        print("\nstopped; run the same command again to continue", flush=True)
        pool.cancel()
        raise
    finally:
        pool.cancel()
        pool.shutdown(wait=True)


def start_job(main: Callable[[Any], None], cfg: Any) -> Any:
    """Start `main(cfg)`, a job of a sweep, as a task with worker processes on its node; returns the job's handle.

    A job that loses its node continues elsewhere from its last checkpoint, if all nodes share the disk of `run_dir`.
    """
    section: Any = OmegaConf.to_container(cfg.launcher, resolve=True)
    launcher = decode_section(LauncherConfig, section, "launcher")
    connect(launcher)
    fresh = not (Path(cfg.get("run_dir", "")) / "config.yaml").exists()
    options = {"num_cpus": launcher.job_cpus, "num_gpus": launcher.job_gpus, "max_retries": RETRIES}
    return _Job(ray.remote(_run_job).options(**options).remote(main, cfg, fresh, os.getcwd()))


class _Job(NamedTuple):
    reference: Any

    def result(self) -> str:
        """Output that the job printed. Raises the job's exception."""
        try:
            return ray.get(self.reference)
        except RayTaskError as error:
            raise error.cause from error

    def cancel(self) -> None:
        """Stop the job as Ctrl-C does: a run saves a checkpoint first."""
        ray.cancel(self.reference)

    def wait(self) -> None:
        """Wait until the job has ended, at most 5 minutes."""
        ray.wait([self.reference], timeout=300)


def _run_job(main: Callable[[Any], None], cfg: Any, fresh: bool, folder: str) -> str:
    os.chdir(folder)
    cfg.launcher = {"name": "local"}  # tasks that wait for tasks would occupy their cores
    if fresh and "resume" in cfg and (Path(cfg.run_dir) / "config.yaml").exists():
        cfg.resume = True  # an earlier try began it
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        main(cfg)
    return printed.getvalue()
