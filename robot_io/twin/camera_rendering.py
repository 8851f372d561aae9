"""Rendering of the twin's cameras in a process of its own, so that the bus never waits for an image."""

import pickle
import select
import signal
import sys
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mujoco
import numpy as np

from tinyvla.arms.simulated import ArmScene, SceneFactory
from tinyvla.errors import UserError
from tinyvla.processes import ChildProcess, report_ready
from tinyvla.ranges import check_range

from ..frames import FrameWriter

SHARED_FILE = "scene"
_DATA = ("qpos", "mocap_pos", "mocap_quat")
_MODEL = ("body_pos", "body_quat", "geom_size")  # of bodies that an episode places or resizes
_POLL = 0.0001  # seconds


@dataclass(frozen=True)
class CameraView:
    """Images of one camera. camera: its name in the scene; width, height: pixels; fps: images per second."""

    camera: str
    width: int
    height: int
    fps: int

    def __post_init__(self) -> None:
        check_range(self, "width", "height", low=8, high=2048)
        check_range(self, "fps", low=1, high=1000)


class CameraProcess:
    """Handle of the process that draws. `open` it once the scene is created, then `show` its changes.

    Args:
        scene: creates a second scene in that process.
        cameras: view by name; the images of a camera go to the file <name>.frames in `folder`.
        folder: an existing one.
    """

    def __init__(self, scene: SceneFactory, cameras: Mapping[str, CameraView], folder: Path):
        self.cameras = list(cameras)
        self._folder = folder
        self._process = ChildProcess(serve)
        self._process.send((scene, dict(cameras), folder))

    def open(self, scene: ArmScene) -> None:
        """Wait for the first images. Raises UserError if the scene cannot be drawn."""
        self._shared = SharedScene(self._folder / SHARED_FILE, scene.model, len(self.cameras), create=True)
        self.show(scene)
        self._process.send(None)
        self._process.wait_until_ready("the process that draws the cameras")

    @property
    def failed(self) -> bool:
        """True once the process has ended."""
        return self._process.poll() is not None

    def show(self, scene: ArmScene) -> None:
        """Draw the scene in its present state from now on."""
        self._shared.write(scene.model, scene.data)

    def set_fault(self, camera: int, fault: str, value: float) -> None:
        """Begin a fault of a camera, or end it with 0. fault: "stopped", "repeating" or "late" (value in seconds)."""
        self._shared.faults[fault][camera] = value

    def close(self) -> None:
        self._process.close()


class SharedScene:
    """State of a scene and faults of its cameras, in a file that the twin writes and the drawing process reads.

    faults: array by name, one element per camera: "stopped" cameras deliver no images, "repeating" ones the same image
    again, "late" ones images that are as many seconds old.

    Args:
        path: of the file.
        model: of the scene.
        cameras: number of cameras.
        create: create the file.
    """

    def __init__(self, path: Path, model: mujoco.MjModel, cameras: int, create: bool = False) -> None:
        data = mujoco.MjData(model)
        shapes = {name: getattr(data, name).shape for name in _DATA} | {
            name: getattr(model, name).shape for name in _MODEL
        }
        faults: list[Any] = [("stopped", "?", cameras), ("repeating", "?", cameras), ("late", "<f8", cameras)]
        fields: list[Any] = [("version", "<i8"), ("time", "<f8")]  # version is odd during a write
        fields += [(name, "<f8", shape) for name, shape in shapes.items()] + faults
        memory = np.memmap(path, np.dtype(fields), "w+" if create else "r+", shape=(1,))
        self._fields = {name: np.asarray(memory[name]) for name, *_ in fields}
        self._version, self._time = self._fields["version"], self._fields["time"]
        self.faults = {name: self._fields[name][0] for name, *_ in faults}

    def write(self, model: mujoco.MjModel, data: mujoco.MjData) -> None:
        """Write the state of the scene."""
        self._version += 1
        self._time[0] = data.time
        for name in _DATA:
            self._fields[name][0] = getattr(data, name)
        for name in _MODEL:
            self._fields[name][0] = getattr(model, name)
        self._version += 1

    def read(self, model: mujoco.MjModel, data: mujoco.MjData) -> None:
        """Read the state of the scene into another model and its data, ready to be drawn."""
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
    """Loop that draws each camera of a scene at its rate, with the faults of `SharedScene`."""

    def __init__(self, scene: ArmScene, cameras: Mapping[str, CameraView], folder: Path) -> None:
        self._scene, self._views = scene, list(cameras.values())
        self._shared = SharedScene(folder / SHARED_FILE, scene.model, len(cameras))
        self._data = mujoco.MjData(scene.model)
        self._writers = [FrameWriter(folder / f"{name}.frames", v.height, v.width) for name, v in cameras.items()]
        # The first images take long, and nothing waits for later ones.
        self._last = [self._draw(camera) for camera in range(len(self._views))]
        self._waiting: list[deque[tuple[float, np.ndarray]]] = [deque() for _ in self._views]
        self._due = [time.perf_counter()] * len(self._views)

    @property
    def next_due(self) -> float:
        """Time of the next image on the clock time.perf_counter."""
        return min(self._due)

    def draw_next(self) -> None:
        """Draw the camera that is due."""
        camera = self._due.index(self.next_due)
        # Images that could not be drawn in time are left out.
        self._due[camera] = max(self._due[camera] + 1 / self._views[camera].fps, time.perf_counter())
        if self._shared.faults["stopped"][camera]:
            return
        stamp = time.perf_counter()
        if not self._shared.faults["repeating"][camera]:
            self._last[camera] = self._draw(camera)
        self._waiting[camera].append((stamp, self._last[camera]))
        self._deliver(camera)

    def _deliver(self, camera: int) -> None:
        """Write the newest image that is old enough."""
        waiting, until, newest = self._waiting[camera], time.perf_counter() - self._shared.faults["late"][camera], None
        while waiting and waiting[0][0] <= until:
            newest = waiting.popleft()
        if newest is not None:
            stamp, image = newest
            self._writers[camera].write(image, stamp)

    def _draw(self, camera: int) -> np.ndarray:
        self._shared.read(self._scene.model, self._data)
        view = self._views[camera]
        return self._scene.draw(self._data, view.camera, view.height, view.width).copy()


def serve() -> None:
    """Run the process: scene, cameras and folder come on stdin, then None to start. It ends with stdin."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    make_scene, cameras, folder = pickle.load(sys.stdin.buffer)
    scene = make_scene()
    try:
        pickle.load(sys.stdin.buffer)
    except EOFError:
        return
    try:
        loop = CameraLoop(scene, cameras, folder)
    except UserError as error:
        print(error, flush=True)
        return
    report_ready()
    while not select.select([sys.stdin], [], [], max(0.0, loop.next_due - time.perf_counter()))[0]:
        loop.draw_next()
    scene.close()
