"""The twin's cameras, drawn by a process of their own, so that a bus which answers does not wait for a picture."""

import os
import pickle
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinyvla.errors import UserError

from .scene import Scene
from .stage import Stage

READY = "ready"


@dataclass(frozen=True)
class View:
    """What a camera delivers. camera: its name in the scene."""

    camera: str
    width: int
    height: int
    fps: int


class Eyes:
    """The twin's end of the process that draws: `open` it once the scene is made, then `show` what changes.

    Args:
        scene, options: a callable's dotted name and its arguments, which make the scene once more in that process.
        cameras: view by name; the pictures of each go to the file <name>.frames in `folder`.
    """

    def __init__(self, scene: str, options: Mapping[str, Any], cameras: Mapping[str, View], folder: Path):
        self.cameras = list(cameras)
        self._folder = folder
        self._process = subprocess.Popen(
            [sys.executable, "-c", "from robot_io.twin.painter import serve; serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            start_new_session=True,  # it ends when the twin does
        )
        self._tell((scene, dict(options), dict(cameras), folder))

    def open(self, scene: Scene) -> None:
        """Wait for the first pictures. Raises UserError if the scene cannot be drawn."""
        self._stage = Stage(self._folder / "stage", scene.model, len(self.cameras), create=True)
        self.show(scene)
        self._tell(None)
        assert self._process.stdout is not None
        answer = self._process.stdout.readline().decode().strip()
        if answer != READY:
            self.close()
            if answer:
                raise UserError(answer)
            raise RuntimeError(f"the process that draws ended with exit code {self._process.returncode}")

    @property
    def failed(self) -> bool:
        """Whether nothing is drawn any more."""
        return self._process.poll() is not None

    def show(self, scene: Scene) -> None:
        """From now on everything is drawn where it is now."""
        self._stage.show(scene.model, scene.data)

    def disturb(self, camera: int, trouble: str, value: float) -> None:
        """Something is wrong with a camera, or, with 0, no longer. trouble: "stopped", "repeating" or "late", whose
        value is in seconds."""
        getattr(self._stage, trouble)[camera] = value

    def close(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        self._process.wait()

    def _tell(self, what: Any) -> None:
        assert self._process.stdin is not None
        try:
            pickle.dump(what, self._process.stdin)
            self._process.stdin.flush()
        except BrokenPipeError:  # it has ended, and its answer says why
            pass
