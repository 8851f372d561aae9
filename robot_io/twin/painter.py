"""The process that draws what a twin's cameras see into files that other processes map, until its stdin ends."""

import pickle
import select
import signal
import sys
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from pydoc import locate
from typing import Any

import mujoco
import numpy as np

from tinyvla.errors import UserError

from ..frames import FrameWriter
from .eyes import READY, View
from .scene import Scene
from .stage import Stage


class Painter:
    """Draws each camera of a scene at its rate. `Stage.stopped` cameras deliver nothing, `repeating` ones the same
    picture again, and `late` ones what they saw so many seconds ago.
    """

    def __init__(self, scene: Scene, cameras: Mapping[str, View], folder: Path) -> None:
        self._scene, self._views = scene, list(cameras.values())
        self._stage = Stage(folder / "stage", scene.model, len(cameras))
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

    def paint(self) -> None:
        """Draw the camera that is due."""
        camera = self._due.index(self.next_due)
        # A drawing that took too long is not made up for.
        self._due[camera] = max(self._due[camera] + 1 / self._views[camera].fps, time.perf_counter())
        if self._stage.stopped[camera]:
            return
        stamp = time.perf_counter()
        if not self._stage.repeating[camera]:
            self._last[camera] = self._draw(camera)
        self._waiting[camera].append((stamp, self._last[camera]))
        self._deliver(camera)

    def _deliver(self, camera: int) -> None:
        waiting, until, out = self._waiting[camera], time.perf_counter() - self._stage.late[camera], None
        while waiting and waiting[0][0] <= until:
            out = waiting.popleft()
        if out is not None:
            stamp, picture = out
            self._writers[camera].write(picture, stamp)

    def _draw(self, camera: int) -> np.ndarray:
        self._stage.look(self._scene.model, self._data)
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
        painter = Painter(scene, cameras, folder)
    except UserError as error:
        print(error, flush=True)
        return
    print(READY, flush=True)
    while not select.select([sys.stdin], [], [], max(0.0, painter.next_due - time.perf_counter()))[0]:
        painter.paint()
    scene.close()
