"""Views of the table: two of Meta-World's cameras, aimed and zoomed at the part of the scene where things happen.

Two thirds of `corner2` are background and the robot's base, and half of `topview` is the base: at 96 pixels a goal
marker is two pixels wide. `corner2_table` and `topview_table` show it half as large again, at no cost. They are cameras
with names of their own, so that datasets, checkpoints and LeRobot's tools cannot mistake one view for the other.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np


class TableView(NamedTuple):
    """A part of a camera's upright image.

    camera: its name in the model. right, down: the part's centre, from the image's centre, in half image sides. zoom:
    the image's side over the part's.
    """

    camera: str
    right: float
    down: float
    zoom: float


TABLE_VIEWS = {
    "corner2_table": TableView("corner2", 0.2, 0.1, 1.43),
    "topview_table": TableView("topview", 0.0, -0.25, 1.33),
}


@contextmanager
def aimed(model: Any, data: Any, view: TableView, upside_down: bool) -> Iterator[None]:
    """Aim and zoom a camera of a MuJoCo model, for the images that are drawn within the block.

    upside_down: whether the camera's images are turned by 180 degrees before anybody sees them.
    """
    camera = model.camera(view.camera).id
    axes, fovy = data.cam_xmat[camera].copy(), model.cam_fovy[camera]
    half_side = np.tan(np.radians(fovy) / 2)
    turn = -1.0 if upside_down else 1.0
    # A camera looks along -z, with x to the right and y up.
    direction = np.array([turn * view.right * half_side, -turn * view.down * half_side, -1.0])
    data.cam_xmat[camera] = (axes.reshape(3, 3) @ _rotation_to(direction / np.linalg.norm(direction))).ravel()
    model.cam_fovy[camera] = 2 * np.degrees(np.arctan(half_side / view.zoom))
    try:
        yield
    finally:
        data.cam_xmat[camera], model.cam_fovy[camera] = axes, fovy


def _rotation_to(direction: np.ndarray) -> np.ndarray:
    """The shortest rotation, (3, 3), that turns -z to a direction of length 1 which is not +z (Rodrigues' formula)."""
    forward = np.array([0.0, 0.0, -1.0])
    x, y, z = np.cross(forward, direction)
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    return np.eye(3) + cross + cross @ cross / (1 + forward @ direction)
