"""Client of a twin: starts one in a process of its own or in a thread, and controls it."""

import contextlib
import json
import pickle
import shutil
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tinyvla.errors import UserError
from tinyvla.processes import ChildProcess, report_ready

from .commands import SOCKET
from .settings import TwinSettings
from .twin import Twin

_TIMEOUT = 10.0  # seconds to wait for an answer


class TwinControl:
    """Control of the twin that runs in a folder: a `tinyvla.arms` `SceneControl`.

    Raises UserError if no twin runs there.
    """

    def __init__(self, folder: Path | str):
        self.folder = Path(folder)
        self.port = str(self.folder / "port")
        self.calibration_dir = self.folder / "calibration"
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(_TIMEOUT)
        try:
            self._socket.connect(str(self.folder / SOCKET))
        except OSError as error:
            self._socket.close()
            raise UserError(f"no twin runs in {folder}; start one with simulate_arm.py") from error
        self._replies = self._socket.makefile("r")

    def send(self, line: str) -> dict[str, Any]:
        """Send a command (`commands.HELP`); returns the answer. Raises UserError if the twin refuses it."""
        try:
            self._socket.sendall(f"{line}\n".encode())
            answer = self._replies.readline()
        except OSError as error:
            raise UserError(f"the twin in {self.folder} does not answer; start it again") from error
        if not answer:
            raise UserError(f"the twin in {self.folder} has ended; start it again")
        content = json.loads(answer)
        if "error" in content:
            raise UserError(content["error"])
        return content

    def state(self) -> dict[str, Any]:
        """True state of the simulation, see `Twin.state`."""
        return self.send("state")

    def reset(self, seed: int, move_arm: bool = True) -> None:
        """Begin an episode of the scene. move_arm: False leaves the arm where it is."""
        self.send(f"reset {seed}" if move_arm else f"reset {seed} stay")

    def place(self, qpos: np.ndarray) -> None:
        """Set the scene's `qpos`, (nq,), at rest."""
        self.send("place " + " ".join(map(repr, map(float, qpos))))

    def close(self) -> None:
        self._replies.close()
        self._socket.close()


@contextlib.contextmanager
def twin_folder(path: str | None = None) -> Iterator[Path]:
    """Create a folder for a twin and remove it at the end. None: a temporary one. Raises UserError if `path` exists."""
    if path is None:
        folder = Path(tempfile.mkdtemp(prefix="twin-"))
    else:
        folder = Path(path).absolute()
        try:
            folder.mkdir(parents=True)
        except FileExistsError as error:
            raise UserError(f"{path} exists; give robot.twin.folder another name, or remove it") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def start_twin(settings: TwinSettings, in_thread: bool = False) -> Iterator[TwinControl]:
    """Run a twin in a process of its own, so that it answers in time whatever this process does.

    in_thread: run it in a thread of this process, for tests.

    Raises UserError if the twin cannot start.
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
    process = ChildProcess(_serve)
    try:
        process.send((settings, folder))
        process.wait_until_ready("the twin's process")
        control = TwinControl(folder)
        try:
            yield control
        finally:
            control.close()
    finally:
        process.close()


def _serve() -> None:
    """Run the process: a twin from the settings on stdin, until stdin ends, as it does when the owner dies."""
    settings, folder = pickle.load(sys.stdin.buffer)
    try:
        twin = Twin(settings, folder)
    except UserError as error:
        print(error, flush=True)
        return

    def wait_for_owner() -> None:
        sys.stdin.buffer.read()
        twin.stop()

    threading.Thread(target=wait_for_owner, daemon=True).start()
    twin.run(ready=report_ready)
    shutil.rmtree(folder, ignore_errors=True)
