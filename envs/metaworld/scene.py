"""What is what in Meta-World's models, and starts outside of the usual range, for `envs.shifts`."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import mujoco
import numpy as np

from ..shifts.scene import Scene

_NO_OBJECTS = {"base", "mocap", "tablelink", "RetainingWall"}  # the arm, what drags it, and the room
_SURFACE = (-0.4, 0.4, 0.4, 0.85, 0.0)  # of the table, what corner2 and topview see
_STATE_NOISE = (0.003, 0.003, 0.003, 0.02)  # metres, and the gripper's opening


def describe_scene(model: mujoco.MjModel) -> Scene:
    """The scene of any of the 50 tasks: they share arm, table and room, and all else is the task's."""
    roots = [body for body in range(1, model.nbody) if model.body_parentid[body] == 0]
    geoms = {name: _geoms_of(model, name) for name in ("tablelink", "RetainingWall", "world")}
    return Scene(
        objects=tuple(body for body in roots if model.body(body).name not in _NO_OBJECTS),
        table=geoms["tablelink"],
        background=geoms["RetainingWall"] + geoms["world"],
        surface=_SURFACE,
        state_noise=np.array(_STATE_NOISE),
    )


def _geoms_of(model: mujoco.MjModel, body: str) -> tuple[int, ...]:
    start, count = int(model.body(body).geomadr[0]), int(model.body(body).geomnum[0])
    return tuple(range(start, start + count))


@contextmanager
def start_outside(sim: Any, metres: float) -> Iterator[None]:
    """Have a simulator of Meta-World begin episodes with object and goal that far outside of their usual range.

    Meta-World draws object and goal, x, y and z each, from a box. Of the object one coordinate on the table goes beyond
    that box, to a side where the hand can follow, and one of the goal; those that the task keeps fixed stay so.
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
