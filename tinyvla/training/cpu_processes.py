"""Training on the cores of a CPU: one process per core, which share every batch.

Torch's threads wait for each other after every operation, so that two of them compute 1.2 times as much as one, and
next to another busy program less than half. Processes meet once per step, when they add up their gradients.
"""

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from ..errors import UserError, one_line
from ..machine import count_cores
from .device import is_cpu
from .settings import TrainerConfig

_RANK, _WORLD = "RANK", "WORLD_SIZE"  # torch's environment variables of a distributed run
_SHARED = "TINYVLA_SHARED_BATCH"  # set where the processes were started here and share the batch of one


def count_processes(trainer: TrainerConfig, device: str) -> int:
    """Number of processes of a run that this process should train with: 1 on a GPU, or where a launcher started it.

    Raises UserError if they cannot share a batch equally.
    """
    if _RANK in os.environ or not is_cpu(device):
        return 1
    if trainer.processes == "auto":
        return next(count for count in range(count_cores(), 0, -1) if trainer.batch_size % count == 0)
    count = int(trainer.processes)
    if trainer.batch_size % count:
        raise UserError(
            f"trainer.processes={count} cannot share a batch of {trainer.batch_size} equally; "
            "change trainer.processes or trainer.batch_size"
        )
    return count


@contextlib.contextmanager
def cpu_processes(count: int, arguments: Sequence[str]) -> Iterator[None]:
    """Be the first of `count` processes that run this program together; the others end with the block.

    Args:
        count: 1: no others.
        arguments: of the command line of the others.

    Raises UserError if another process ends with an error while this one depends on it.
    """
    if count == 1:
        yield
        return
    group = {_WORLD: str(count), "LOCAL_WORLD_SIZE": str(count), _SHARED: "1"}
    group |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
    before = dict(os.environ)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as started:
        started.callback(_restore, before)
        os.environ.update(group | {_RANK: "0", "LOCAL_RANK": "0"})
        processes = []
        for rank in range(1, count):
            log = started.enter_context((Path(folder) / str(rank)).open("wb"))
            process = subprocess.Popen(
                [sys.executable, *_program(), *arguments],
                env=before | group | {_RANK: str(rank), "LOCAL_RANK": str(rank)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the first process, which ends all of them after a checkpoint
            )
            processes.append(process)
            started.callback(process.wait)
            started.callback(process.kill)
        try:
            yield
        except RuntimeError as error:
            if failed := [rank for rank, process in enumerate(processes, 1) if process.poll()]:
                lines = (Path(folder) / str(failed[0])).read_text(errors="replace").strip().splitlines()
                reason = one_line(lines[-1] if lines else "it was killed")
                raise UserError(
                    f"training process {failed[0]} ended ({reason}); resume the run, with trainer.processes=1 if it "
                    "happens again"
                ) from error
            raise


def share_batch(trainer: TrainerConfig) -> TrainerConfig:
    """Settings of each of the processes of `cpu_processes`: its share of the batch, and one thread.

    Without such processes: the settings.
    """
    if _SHARED not in os.environ:
        return trainer
    count = int(os.environ[_WORLD])
    threads = max(1, count_cores() // count) if trainer.num_threads == "auto" else trainer.num_threads
    return replace(trainer, batch_size=trainer.batch_size // count, num_threads=threads)


def _program() -> list[str]:
    """Script or module that this process runs."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return ["-m", spec.name] if spec else [sys.argv[0]]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _restore(environment: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)
