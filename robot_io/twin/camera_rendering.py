"""The twin's cameras, drawn by a process of their own, so that a bus which answers does not wait for a picture."""

import os
import pickle
import select
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from pydoc import locate
from typing import Any

import mujoco
import numpy as np

from tinyvla.errors import UserError

from ..frames import FrameWriter
from .bare_arm import Scene

READY = "ready"
_DATA = ("qpos", "mocap_pos", "mocap_quat")
_MODEL = ("body_pos", "body_quat")  # of what an episode puts in another place, though it does not move in it
_POLL = 0.0001  # seconds


@dataclass(frozen=True)
class CameraView:
    """What a camera delivers. camera: its name in the scene."""

    camera: str
    width: int
    height: int
    fps: int


class CameraProcess:
    """The twin's end of the process that draws: `open` it once the scene is made, then `show` what changes.

    Args:
        scene, options: a callable's dotted name and its arguments, which make the scene once more in that process.
        cameras: view by name; the pictures of each go to the file <name>.frames in `folder`.
    """

    def __init__(self, scene: str, options: Mapping[str, Any], cameras: Mapping[str, CameraView], folder: Path):
        self.cameras = list(cameras)
        self._folder = folder
        self._process = subprocess.Popen(
            [sys.executable, "-c", "from robot_io.twin.camera_rendering import serve; serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            start_new_session=True,  # it ends when the twin does
        )
        self._tell((scene, dict(options), dict(cameras), folder))

    def open(self, scene: Scene) -> None:
        """Wait for the first pictures. Raises UserError if the scene cannot be drawn."""
        self._shared = SharedScene(self._folder / "scene", scene.model, len(self.cameras), create=True)
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
        self._shared.write(scene.model, scene.data)

    def disturb(self, camera: int, trouble: str, value: float) -> None:
        """Something is wrong with a camera, or, with 0, no longer. trouble: "stopped", "repeating" or "late", whose
        value is in seconds."""
        getattr(self._shared, trouble)[camera] = value

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


class SharedScene:
    """The file of that name, which both map: the twin writes, the other reads, and nobody waits for long.

    Args:
        path: `create` makes it.
        model: the scene's, or one that is made alike.
        cameras: how many.
    """

    def __init__(self, path: Path, model: mujoco.MjModel, cameras: int, create: bool = False) -> None:
        data = mujoco.MjData(model)
        shapes = {name: getattr(data, name).shape for name in _DATA} | {
            name: getattr(model, name).shape for name in _MODEL
        }
        fields: list[Any] = [("version", "<i8"), ("time", "<f8")]  # version is odd while something is being written
        fields += [(name, "<f8", shape) for name, shape in shapes.items()]
        fields += [("stopped", "?", cameras), ("repeating", "?", cameras), ("late", "<f8", cameras)]
        memory = np.memmap(path, np.dtype(fields), "w+" if create else "r+", shape=(1,))
        self._fields = {name: np.asarray(memory[name]) for name, *_ in fields}
        self._version, self._time = self._fields["version"], self._fields["time"]
        self.stopped, self.repeating, self.late = (self._fields[name][0] for name in ("stopped", "repeating", "late"))

    def write(self, model: mujoco.MjModel, data: mujoco.MjData) -> None:
        """Write where everything is."""
        self._version += 1
        self._time[0] = data.time
        for name in _DATA:
            self._fields[name][0] = getattr(data, name)
        for name in _MODEL:
            self._fields[name][0] = getattr(model, name)
        self._version += 1

    def read(self, model: mujoco.MjModel, data: mujoco.MjData) -> None:
        """Put everything where it was written to be."""
        while True:
            before = int(self._version[0])
            if before % 2 == 0:
                data.time = float(self._time[0])
                for name in _DATA:
                    getattr(data, name)[:] = self._fields[name][0]
                for name in _MODEL:
                    getattr(model, name)[:] = self._fields[name][0]
                if int(self._version[0]) == before:
                    break
            time.sleep(_POLL)
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        mujoco.mj_camlight(model, data)


class CameraLoop:
    """Loop that draws each camera of a scene at its rate.

    Of a `SharedScene`, `stopped` cameras deliver nothing, `repeating` ones the same image again, and `late` ones an
    image that is as many seconds old.
    """

    def __init__(self, scene: Scene, cameras: Mapping[str, CameraView], folder: Path) -> None:
        self._scene, self._views = scene, list(cameras.values())
        self._shared = SharedScene(folder / "scene", scene.model, len(cameras))
        self._data = mujoco.MjData(scene.model)
        self._writers = [FrameWriter(folder / f"{name}.frames", v.height, v.width) for name, v in cameras.items()]
        # The first pictures take long; none is waited for later.
        self._last = [self._draw(camera) for camera in range(len(self._views))]
        self._waiting: list[deque[tuple[float, np.ndarray]]] = [deque() for _ in self._views]
        self._due = [time.perf_counter()] * len(self._views)

    @property
    def next_due(self) -> float:
        """When there is something to draw, on time.perf_counter's clock."""
        return min(self._due)

    def draw_next(self) -> None:
        """Draw the camera that is due."""
        camera = self._due.index(self.next_due)
        # A drawing that took too long is not made up for.
        self._due[camera] = max(self._due[camera] + 1 / self._views[camera].fps, time.perf_counter())
        if self._shared.stopped[camera]:
            return
        stamp = time.perf_counter()
        if not self._shared.repeating[camera]:
            self._last[camera] = self._draw(camera)
        self._waiting[camera].append((stamp, self._last[camera]))
        self._deliver(camera)

    def _deliver(self, camera: int) -> None:
        waiting, until, out = self._waiting[camera], time.perf_counter() - self._shared.late[camera], None
        while waiting and waiting[0][0] <= until:
            out = waiting.popleft()
        if out is not None:
            stamp, picture = out
            self._writers[camera].write(picture, stamp)

    def _draw(self, camera: int) -> np.ndarray:
        self._shared.read(self._scene.model, self._data)
        view = self._views[camera]
        return self._scene.draw(self._data, view.camera, view.height, view.width).copy()


def serve() -> None:
    """The process: a scene's name, its options, cameras and the folder come by stdin, and a word when it may begin."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    name, options, cameras, folder = pickle.load(sys.stdin.buffer)
    make_scene: Any = locate(name)
    scene = make_scene(**options)
    try:
        pickle.load(sys.stdin.buffer)
    except EOFError:
        return
    try:
        loop = CameraLoop(scene, cameras, folder)
    except UserError as error:
        print(error, flush=True)
        return
    print(READY, flush=True)
    while not select.select([sys.stdin], [], [], max(0.0, loop.next_due - time.perf_counter()))[0]:
        loop.draw_next()
    scene.close()
