"""Changes of Meta-World's scenes: elements and starts for `envs.shifts`, hidden goal markers, shared starts."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import mujoco
import numpy as np
from gymnasium.spaces import Box

from ..contract import SceneElements
from .shared_starts import SharedStart

_ARM, _TABLE, _ROOM = {"base", "mocap"}, {"tablelink"}, {"world", "RetainingWall"}  # bodies; some tasks have no wall
_SURFACE = (-0.4, 0.4, 0.4, 0.85)  # part of the table that corner2 and topview show
_STATE_NOISE = (0.003, 0.003, 0.003, 0.02)  # metres, and the gripper's opening
_BOX, _SHOWN = mujoco.mjtGeom.mjGEOM_BOX, 2  # largest group of geoms that is drawn
_GOAL_SITES = ("goal", "pegTop", "hole")  # in the names of the sites at goals


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


def hide_goal_markers(model: mujoco.MjModel) -> None:
    """Stop drawing the goal markers of a model. They are sites, which the physics does not have."""
    for site in range(model.nsite):
        if any(name in model.site(site).name for name in _GOAL_SITES):
            model.site_rgba[site, 3] = 0


def share_start(sim: Any, start: SharedStart) -> None:
    """Let a Meta-World simulator draw the mechanism's place from the range of `start`, and put the hand where it says.

    Every reset has to be followed by `begin_shared`.
    """
    sim._random_reset_space = Box(np.array(start.low), np.array(start.high), dtype=np.float64)
    if start.hand:
        sim.hand_init_pos = np.array(start.hand)


def begin_shared(sim: Any, start: SharedStart) -> np.ndarray:
    """Begin an episode of a simulator that was reset, and return its full state (39,).

    The steps of Meta-World's own reset differ between the tasks of a mechanism. After these ones both are in the same
    state, to the last bit.
    """
    mujoco.mj_resetData(sim.model, sim.data)
    _move_mechanism(sim, start.joint)
    sim._reset_hand()
    _move_mechanism(sim, start.joint)
    sim._prev_obs = sim._get_curr_obs_combined_no_goal()
    return sim._get_obs()


def _move_mechanism(sim: Any, position: float) -> None:
    """Move the mechanism's joint, which is the model's last, and leave it at rest."""
    positions, velocities = sim.data.qpos.copy(), sim.data.qvel.copy()
    positions[-1], velocities[-1] = position, 0.0
    sim.set_state(positions, velocities)
