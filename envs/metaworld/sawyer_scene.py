"""Scene elements of Meta-World's models, and starts outside the usual range, for `envs.shifts`."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import mujoco
import numpy as np

from ..contract import SceneElements

_ARM, _TABLE, _ROOM = {"base", "mocap"}, {"tablelink"}, {"world", "RetainingWall"}  # bodies; some tasks have no wall
_SURFACE = (-0.4, 0.4, 0.4, 0.85)  # part of the table that corner2 and topview show
_STATE_NOISE = (0.003, 0.003, 0.003, 0.02)  # metres, and the gripper's opening
_BOX, _SHOWN = mujoco.mjtGeom.mjGEOM_BOX, 2  # largest group of geoms that is drawn


def describe_scene(model: mujoco.MjModel) -> SceneElements:
    """Scene elements of any of the 50 tasks: they share arm, table and room; all other bodies are the task's."""
    roots = [body for body in range(1, model.nbody) if model.body_parentid[body] == 0]
    table = _geoms_of(model, _TABLE)
    # A table with a hole has a higher top.
    boards = [geom for geom in table if model.geom_group[geom] <= _SHOWN and model.geom_type[geom] == _BOX]
    top = max(model.body_pos[model.geom_bodyid[g], 2] + model.geom_pos[g, 2] + model.geom_size[g, 2] for g in boards)
    return SceneElements(
        objects=tuple(body for body in roots if model.body(body).name not in _ARM | _TABLE | _ROOM),
        table=table,
        background=_geoms_of(model, _ROOM),
        surface=(*_SURFACE, float(top)),
        state_noise=np.array(_STATE_NOISE),
    )


def _geoms_of(model: mujoco.MjModel, bodies: set[str]) -> tuple[int, ...]:
    return tuple(geom for geom in range(model.ngeom) if model.body(model.geom_bodyid[geom]).name in bodies)


@contextmanager
def start_outside(sim: Any, metres: float) -> Iterator[None]:
    """Let a Meta-World simulator begin episodes with object and goal that far outside their usual range.

    Meta-World draws x, y and z of object and goal from a box. One horizontal coordinate of the object, and one of the
    goal, is moved out of the box, to a side that the hand can reach. Coordinates that the task fixes stay fixed.
    """
    if metres == 0:
        yield
        return
    sim._get_state_rand_vec = lambda: _outside(sim, metres)
    try:
        yield
    finally:
        del sim._get_state_rand_vec


def _outside(sim: Any, metres: float) -> np.ndarray:
    low, high = sim._random_reset_space.low, sim._random_reset_space.high
    start = sim.np_random.uniform(low, high)
    for first in range(0, len(start), 3):
        places = [
            (i, place)
            for i in (first, first + 1)
            for place in (low[i] - metres, high[i] + metres)
            if high[i] - low[i] > 1e-6 and sim.hand_low[i - first] <= place <= sim.hand_high[i - first]
        ]
        if places:
            i, place = places[sim.np_random.integers(len(places))]
            start[i] = place
    return start
