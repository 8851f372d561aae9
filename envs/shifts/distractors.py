"""Distractors: shapes on the table that are drawn without physics and do not belong to the task."""

import colorsys

import mujoco
import numpy as np

from ..contract import SceneElements
from ..rendering import Prop
from .model_edits import bodies_below

_SHAPES = {  # disjoint, so that evaluation shows shapes that training does not
    True: (mujoco.mjtGeom.mjGEOM_BOX, mujoco.mjtGeom.mjGEOM_SPHERE),
    False: (mujoco.mjtGeom.mjGEOM_CYLINDER, mujoco.mjtGeom.mjGEOM_ELLIPSOID, mujoco.mjtGeom.mjGEOM_CAPSULE),
}
_RADIUS = (0.02, 0.04)  # metres
_MARGIN = 0.03  # metres between a distractor and the task
_LOW = 0.15  # metres above the table; higher geoms are ignored
_TRIES = 300


def place_distractors(
    model: mujoco.MjModel,
    data: mujoco.MjData,
    scene: SceneElements,
    strength: float,
    rng: np.random.Generator,
    training: bool,
) -> list[Prop]:
    """Place two shapes per unit of strength on the table, outside the rectangle around objects, goal and hand.

    They are added to the rendered scene (mjvScene), not to the model, so that the physics is the same with and without
    them. A full table gets fewer.
    """
    taken = [_task_area(model, data, scene)]
    x0, y0, x1, y1, z = scene.surface
    props: list[Prop] = []
    for _ in range(_TRIES):
        if len(props) == round(2 * strength):
            break
        radius = rng.uniform(*_RADIUS)
        kind = rng.choice(_SHAPES[training])
        colour = colorsys.hsv_to_rgb(rng.random(), 0.85, rng.uniform(0.6, 1.0))
        place = np.array([rng.uniform(x0 + radius, x1 - radius), rng.uniform(y0 + radius, y1 - radius)])
        nearest = [np.linalg.norm(np.maximum(np.abs(place - middle) - half, 0)) for middle, half in taken]
        if min(nearest) < radius + _MARGIN:
            continue
        taken.append((place, np.full(2, radius)))
        height = radius * rng.uniform(0.7, 1.3)
        size, middle = _standing(kind, radius, height)
        props.append(Prop(int(kind), size, np.array([*place, z + middle]), np.array([*colour, 1.0])))
    return props


def _standing(kind: int, radius: float, height: float) -> tuple[np.ndarray, float]:
    """Size of a shape in MuJoCo's convention, and height of its centre when it stands on the table."""
    if kind == mujoco.mjtGeom.mjGEOM_SPHERE:
        return np.full(3, radius), radius
    if kind == mujoco.mjtGeom.mjGEOM_CAPSULE:
        return np.array([radius * 0.7, radius * 0.7, height]), height + radius * 0.7
    return np.array([radius, radius, height]), height


def _task_area(model: mujoco.MjModel, data: mujoco.MjData, scene: SceneElements) -> tuple[np.ndarray, np.ndarray]:
    """Centre and half extents, in x and y, of the rectangle around the task's objects, visible goal and hand."""
    x0, y0, x1, y1, z = scene.surface
    corners: list[np.ndarray] = []
    bodies = set(bodies_below(model, scene.objects))
    for geom in range(model.ngeom):
        if geom in scene.table or geom in scene.background:
            continue
        middle = data.geom_xpos[geom] + data.geom_xmat[geom].reshape(3, 3) @ model.geom_aabb[geom, :3]
        half = np.abs(data.geom_xmat[geom].reshape(3, 3)) @ model.geom_aabb[geom, 3:]
        low, high = np.maximum((middle - half)[:2], (x0, y0)), np.minimum((middle + half)[:2], (x1, y1))
        in_the_way = int(model.geom_bodyid[geom]) in bodies or middle[2] - half[2] < z + _LOW
        if in_the_way and (low < high).all():
            corners += [low, high]
    for site in range(model.nsite):
        place, visible = data.site_xpos[site], model.site_rgba[site, 3] > 0 and model.site_group[site] <= 2
        if visible and x0 <= place[0] <= x1 and y0 <= place[1] <= y1:
            corners.append(place[:2])
    if not corners:
        return scene.centre[:2], np.zeros(2)
    low, high = np.min(corners, axis=0), np.max(corners, axis=0)
    return (low + high) / 2, (high - low) / 2
