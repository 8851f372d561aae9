"""Running a twin beside something else: in a process of its own, or in a thread."""

import multiprocessing
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

from tinyvla.errors import UserError

from .control import TwinControl
from .settings import TwinSettings
from .twin import Twin

_ORPHANED = 1.0  # seconds between two looks at whether the parent still lives


@contextmanager
def twin_folder(wanted: str | None = None) -> Iterator[Path]:
    """A folder for a twin, removed at the end. `wanted` must not exist yet."""
    if wanted is None:
        folder = Path(tempfile.mkdtemp(prefix="twin-"))
    else:
        folder = Path(wanted).absolute()
        try:
            folder.mkdir(parents=True)
        except FileExistsError as error:
            raise UserError(f"{wanted} exists; give robot.twin.folder another name, or remove it") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def start_twin(settings: TwinSettings, in_process: bool = False) -> Iterator[TwinControl]:
    """Run a twin while the block lasts. It lives in a process of its own, so that it answers in time whatever this
    one does, or with `in_process` in a thread, for tests.

    Raises UserError if it cannot start.
    """
    with twin_folder() as folder:
        run = _in_thread if in_process else _in_process
        with run(settings, folder) as control:
            yield control


@contextmanager
def _in_thread(settings: TwinSettings, folder: Path) -> Iterator[TwinControl]:
    twin = Twin(settings, folder)
    thread = threading.Thread(target=twin.run, name="twin", daemon=True)
    thread.start()
    control = TwinControl(folder)
    try:
        yield control
    finally:
        control.close()
        twin.stop()
        thread.join()


@contextmanager
def _in_process(settings: TwinSettings, folder: Path) -> Iterator[TwinControl]:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(settings, folder, there), name="twin", daemon=True)
    process.start()
    there.close()
    try:
        problem = here.recv()
    except EOFError:
        process.join()
        raise RuntimeError(f"the twin's process ended with exit code {process.exitcode} before it was ready") from None
    if problem is not None:
        process.join()
        raise UserError(problem)
    control = TwinControl(folder)
    try:
        yield control
    finally:
        control.close()
        if process.is_alive():
            process.terminate()
        process.join()


def _serve(settings: TwinSettings, folder: Path, parent: Connection) -> None:
    try:
        twin = Twin(settings, folder)
    except UserError as error:
        parent.send(str(error))
        return

    def leave_with_parent() -> None:
        here = os.getppid()
        while not stopped.wait(_ORPHANED):
            if os.getppid() != here:
                twin.stop()

    stopped = threading.Event()
    threading.Thread(target=leave_with_parent, daemon=True).start()
    twin.run(ready=lambda: parent.send(None))
    stopped.set()
