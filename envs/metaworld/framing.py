"""Framing of Meta-World's cameras: which part of a camera's view its image shows.

Two thirds of `corner2` are background and the robot's base, and half of `topview` is the base: at 96 pixels a goal
marker is two pixels wide. `framing=workspace` aims these cameras at the table and narrows their field of view, which
costs nothing: the images keep their size.
"""

from typing import Any, NamedTuple

import mujoco
import numpy as np


class Aim(NamedTuple):
    """A part of a camera's upright image.

    right, down: the part's centre, from the image's centre, in half image sides. zoom: the image's side over the
    part's.
    """

    right: float
    down: float
    zoom: float


WORKSPACE = {"corner2": Aim(0.2, 0.1, 1.43), "topview": Aim(0.0, -0.25, 1.33)}


def frame_workspace(model: Any, upside_down: set[str]) -> None:
    """Aim the cameras of WORKSPACE at the table, in a MuJoCo model.

    upside_down: cameras whose images are turned by 180 degrees before anybody sees them.
    """
    for name, aim in WORKSPACE.items():
        camera = model.camera(name)
        half_side = np.tan(np.radians(camera.fovy[0]) / 2)
        turn = -1.0 if name in upside_down else 1.0
        # A camera looks along -z, with x to the right and y up.
        ray = np.array([turn * aim.right * half_side, -turn * aim.down * half_side, -1.0])
        camera.quat[:] = _rotated(camera.quat, ray / np.linalg.norm(ray))
        camera.fovy[:] = 2 * np.degrees(np.arctan(half_side / aim.zoom))


def _rotated(quat: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """Orientation of a camera after the shortest rotation that makes it look along `direction`, in its own frame."""
    axis = np.cross([0.0, 0.0, -1.0], direction)
    rotation, result = np.empty(4), np.empty(4)
    sine = np.linalg.norm(axis)
    mujoco.mju_axisAngle2Quat(rotation, axis / max(sine, 1e-9), np.arctan2(sine, -direction[2]))
    mujoco.mju_mulQuat(result, quat, rotation)
    return result
