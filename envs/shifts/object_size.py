"""Larger and smaller objects. Like `position`, this shift changes the physics."""

import mujoco
import numpy as np

from ..contract import SceneElements
from .model_edits import ModelEdits, bodies_below

_SCALE = 0.08  # logarithm, a unit of strength


def object_size(edits: ModelEdits, scene: SceneElements, strength: float, rng: np.random.Generator) -> None:
    """Scale all of the task's objects by the same factor, each about its own origin.

    Objects that belong together still fit: drawer and cabinet, peg and hole. Masses and joint ranges do not change.
    Meshes that other geoms share keep their size.
    """
    model = edits.model
    scale = np.exp(rng.choice([-1, 1]) * _SCALE * strength)
    bodies = bodies_below(model, scene.objects)
    geoms = np.flatnonzero(np.isin(model.geom_bodyid, bodies) & (model.geom_type != mujoco.mjtGeom.mjGEOM_PLANE))
    meshes = _meshes_of(model, geoms)
    shared = set(_meshes_of(model, np.setdiff1d(np.arange(model.ngeom), geoms)))
    geoms = np.array([geom for geom in geoms if _mesh_of(model, geom) not in shared], dtype=int)

    for field in ("geom_pos", "geom_size", "geom_rbound", "geom_aabb"):
        edits.array(field)[geoms] *= scale
    children = [body for body in bodies if body not in scene.objects]
    edits.array("body_pos")[children] *= scale
    edits.array("body_ipos")[bodies] *= scale
    edits.array("jnt_pos")[np.isin(model.jnt_bodyid, bodies)] *= scale
    edits.array("site_pos")[np.isin(model.site_bodyid, bodies)] *= scale
    boxes = edits.array("bvh_aabb")  # bounding volumes of the broad phase of collisions
    for body in bodies:
        boxes[model.body_bvhadr[body] : model.body_bvhadr[body] + model.body_bvhnum[body]] *= scale
    for mesh in meshes:
        if mesh not in shared:
            edits.vertices(mesh)[...] *= np.float32(scale)
            boxes[model.mesh_bvhadr[mesh] : model.mesh_bvhadr[mesh] + model.mesh_bvhnum[mesh]] *= scale


def _mesh_of(model: mujoco.MjModel, geom: int) -> int:
    return int(model.geom_dataid[geom]) if model.geom_type[geom] == mujoco.mjtGeom.mjGEOM_MESH else -1


def _meshes_of(model: mujoco.MjModel, geoms: np.ndarray) -> list[int]:
    return sorted({_mesh_of(model, geom) for geom in geoms} - {-1})
