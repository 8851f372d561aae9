"""What moves in a scene, and what is wrong with its cameras: memory shared by the twin and the process that draws."""

import time
from pathlib import Path
from typing import Any

import mujoco
import numpy as np

_DATA = ("qpos", "mocap_pos", "mocap_quat")
_MODEL = ("body_pos", "body_quat")  # of what an episode puts in another place, though it does not move in it
_POLL = 0.0001  # seconds


class Stage:
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

    def show(self, model: mujoco.MjModel, data: mujoco.MjData) -> None:
        """Write where everything is."""
        self._version += 1
        self._time[0] = data.time
        for name in _DATA:
            self._fields[name][0] = getattr(data, name)
        for name in _MODEL:
            self._fields[name][0] = getattr(model, name)
        self._version += 1

    def look(self, model: mujoco.MjModel, data: mujoco.MjData) -> None:
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
