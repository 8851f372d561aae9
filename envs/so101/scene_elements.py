"""Elements of the SO-101's scene that `envs.shifts` changes."""

import mujoco
import numpy as np

from ..contract import SceneElements
from .simulation import CUBE, DISC, ROOM, SURFACE, TABLE

_STATE_NOISE = (0.3, 0.3, 0.3, 0.3, 0.3, 0.5)  # LeRobot's units; a servo counts steps of 0.09 degrees


def describe_scene(model: mujoco.MjModel) -> SceneElements:
    """Elements of the scene, which all tasks share."""
    return SceneElements(
        objects=tuple(model.body(name).id for name in (CUBE, DISC)),
        table=(model.geom(TABLE).id,),
        background=tuple(model.geom(name).id for name in ROOM),
        surface=SURFACE,
        state_noise=np.array(_STATE_NOISE),
    )
