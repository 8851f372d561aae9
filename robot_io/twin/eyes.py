"""The twin's cameras: a thread that draws what they see into files that other processes map."""

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import mujoco
import numpy as np

from ..frames import FrameWriter
from .scene import Scene


@dataclass(frozen=True)
class View:
    """What a camera delivers. camera: its name in the scene."""

    camera: str
    width: int
    height: int
    fps: int


class Eyes:
    """Draws each camera at its rate from copies of the state. `stopped` cameras deliver nothing, `repeating` ones the
    same picture again.

    Args:
        scene: what is drawn.
        cameras: view by name; the pictures of each go to the file <name>.frames in `folder`.
        lock: held while the scene's data change.
    """

    def __init__(self, scene: Scene, cameras: Mapping[str, View], folder: Path, lock: threading.Lock):
        self.cameras = dict(cameras)
        self.stopped: set[str] = set()
        self.repeating: set[str] = set()
        self.failed: Exception | None = None
        self._scene, self._lock = scene, lock
        self._data = mujoco.MjData(scene.model)
        self._writers = {
            name: FrameWriter(folder / f"{name}.frames", view.height, view.width) for name, view in cameras.items()
        }
        self._stop, started = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, args=(started,), name="eyes", daemon=True)
        self._thread.start()
        started.wait()  # the first pictures take long and stop all threads; none is waited for later
        if self.failed:
            raise self.failed

    def close(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self, started: threading.Event) -> None:
        last: dict[str, np.ndarray] = {}
        try:
            for name in self.cameras:
                last[name] = self._draw(name)
            started.set()
            due = dict.fromkeys(self.cameras, time.perf_counter())
            while not self._stop.wait(max(0.0, min(due.values()) - time.perf_counter())):
                name = min(due, key=lambda camera: due[camera])
                view = self.cameras[name]
                # A drawing that took too long is not made up for.
                due[name] = max(due[name] + 1 / view.fps, time.perf_counter())
                if name in self.stopped:
                    continue
                stamp = time.perf_counter()
                if name not in self.repeating:
                    last[name] = self._draw(name)
                self._writers[name].write(last[name], stamp)
        except Exception as error:  # the twin's loop raises it
            self.failed = error
            started.set()
        finally:
            self._scene.close()

    def _draw(self, name: str) -> np.ndarray:
        self._look()
        view = self.cameras[name]
        return self._scene.draw(self._data, view.camera, view.height, view.width).copy()

    def _look(self) -> None:
        """Copy what moves and place everything by it."""
        source, copy = self._scene.data, self._data
        with self._lock:
            copy.time = source.time
            for field in ("qpos", "mocap_pos", "mocap_quat"):
                getattr(copy, field)[:] = getattr(source, field)
        model = self._scene.model
        mujoco.mj_kinematics(model, copy)
        mujoco.mj_comPos(model, copy)
        mujoco.mj_camlight(model, copy)
