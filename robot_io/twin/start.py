"""Running a twin beside something else: in a process of its own, or in a thread."""

import contextlib
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from tinyvla.errors import UserError

from .control import TwinControl
from .settings import TwinSettings
from .twin import Twin

_READY = "ready"


@contextlib.contextmanager
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


@contextlib.contextmanager
def start_twin(settings: TwinSettings, in_thread: bool = False) -> Iterator[TwinControl]:
    """Run a twin while the block lasts: in a process of its own, so that it answers in time whatever this one does,
    or `in_thread`, for tests.

    Raises UserError if it cannot start.
    """
    with twin_folder() as folder, (_thread if in_thread else _process)(settings, folder) as control:
        yield control


@contextlib.contextmanager
def _thread(settings: TwinSettings, folder: Path) -> Iterator[TwinControl]:
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


@contextlib.contextmanager
def _process(settings: TwinSettings, folder: Path) -> Iterator[TwinControl]:
    # Not multiprocessing, which would import the caller's main module, and all that it needs, in the twin's process.
    process = subprocess.Popen(
        [sys.executable, "-c", "from robot_io.twin.start import _serve; _serve()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        start_new_session=True,  # Ctrl-C is for the caller, who may need the arm to stop it
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        pickle.dump((settings, folder), process.stdin)
        process.stdin.flush()
        answer = process.stdout.readline().decode().strip()
        if answer != _READY:
            if process.wait() == 0:
                raise UserError(answer)
            raise RuntimeError(f"the twin's process ended with exit code {process.returncode} before it was ready")
        control = TwinControl(folder)
        try:
            yield control
        finally:
            control.close()
    finally:
        process.stdin.close()  # which ends it
        process.wait()
        process.stdout.close()


def _serve() -> None:
    """The process: the twin that stdin tells of, until stdin ends, as it does when its owner dies."""
    settings, folder = pickle.load(sys.stdin.buffer)
    try:
        twin = Twin(settings, folder)
    except UserError as error:
        print(error)
        return

    def wait_for_owner() -> None:
        sys.stdin.buffer.read()
        twin.stop()

    threading.Thread(target=wait_for_owner, daemon=True).start()
    twin.run(ready=lambda: print(_READY, flush=True))
    shutil.rmtree(folder, ignore_errors=True)
