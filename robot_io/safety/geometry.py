"""Distance check of an SO-101 to walls, the table and itself, from its joint positions (MuJoCo).

Links are checked against each other as boxes around the parts' meshes, which is quick and errs on the safe side, and
against the table and the walls as the convex hulls of their meshes, so that the fingertips may come down to the table.
"""

import functools
import itertools
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

import mujoco
import numpy as np
from scipy.spatial import ConvexHull

from tinyvla.arms.so101 import SO101
from tinyvla.errors import UserError

from .limits import SafetyLimits
from .report import Cause

BASE, SHOULDER, UPPER, LOWER, WRIST, GRIPPER, JAW = SO101.links
# Links that can meet. Neighbours cannot, and the remaining pairs do not within the joints' ranges.
MEETING = {
    BASE: (LOWER, WRIST, GRIPPER, JAW),
    SHOULDER: (LOWER, WRIST, GRIPPER, JAW),
    UPPER: (WRIST, GRIPPER, JAW),
}
CONFINED = (LOWER, WRIST, GRIPPER, JAW)  # to the workspace; the upper arm's ends are the shoulder and the elbow
TABLE = "table"  # name of its plane
NEGLIGIBLE = 1e-4  # metres per radian by which a gap changes
SLACK = 1e-6  # metres by which a start pose's own distance is undercut, for rounding


class ArmGeometry:
    """Checks poses of an SO-101.

    A start pose may already be too near to something. Then the demanded distance of each pair of shapes is that of the
    start, and grows as the arm moves away until it is the clearance.

    Args:
        limits: of the arm.
        max_poses: greatest number of poses that are checked at a time.
    """

    def __init__(self, limits: SafetyLimits, max_poses: int) -> None:
        self.model = _checked_model(limits)
        self.data = mujoco.MjData(self.model)
        ranges = self.model.jnt_range
        # From LeRobot's units to the model's: degrees to radians, and a gripper's 0 to 100 to its range.
        self.scale = np.full(self.model.nq, np.pi / 180)
        self.scale[-1] = (ranges[-1, 1] - ranges[-1, 0]) / 100
        self.offset = np.zeros(self.model.nq)
        self.offset[-1] = ranges[-1, 0]
        if tuple(limits.joints) != SO101.joints:
            raise UserError(
                f"safety.joints are not those of the {limits.model}; list {', '.join(SO101.joints)}, in this order"
            )
        self._qpos, self._angles = self.data.qpos, np.zeros((max_poses, self.model.nq))
        self._jacobians = np.zeros((2, 3, self.model.nv))
        self._pairs = {
            frozenset((int(a), int(b))): i
            for i, (a, b) in enumerate(zip(self.model.pair_geom1, self.model.pair_geom2, strict=True))
        }
        self._nominal = self.model.pair_margin.copy()
        self._relaxed = False

    def first_conflict(self, poses: np.ndarray) -> int | None:
        """Index of the first of these poses, (n, joints) in LeRobot's units, that is too near to something, or None."""
        angles = self._angles[: len(poses)]
        np.multiply(poses, self.scale, out=angles)
        np.add(angles, self.offset, out=angles)
        for index in range(len(poses)):
            self._qpos[:] = angles[index]
            mujoco.mj_kinematics(self.model, self.data)
            mujoco.mj_collision(self.model, self.data)
            if self.data.ncon:
                return index
        return None

    def obstacle(self) -> Cause:
        """Obstacle of the pose that `first_conflict` returned last."""
        contact = self.data.contact[0]
        for geom in (contact.geom1, contact.geom2):
            if self.model.geom_type[geom] == mujoco.mjtGeom.mjGEOM_PLANE:
                return Cause.TABLE if self.model.geom(geom).name == TABLE else Cause.WORKSPACE
        return Cause.SELF_COLLISION

    def opening(self, out: np.ndarray) -> None:
        """Rate at which each joint, turning positively, widens the gap at the pose of the last conflict; (joints,)."""
        contact = self.data.contact[0]
        mujoco.mj_comPos(self.model, self.data)
        for jacobian, geom in zip(self._jacobians, (contact.geom1, contact.geom2), strict=True):
            mujoco.mj_jac(self.model, self.data, jacobian, None, contact.pos, self.model.geom_bodyid[geom])
        np.subtract(self._jacobians[1], self._jacobians[0], out=self._jacobians[1])
        np.matmul(contact.frame[:3], self._jacobians[1], out=out)
        out[np.abs(out) < NEGLIGIBLE] = 0

    def relax(self, pose: np.ndarray) -> list[str]:
        """Accept a pose as a start even if it is too near to something; returns the pairs that are too near."""
        self.model.pair_margin[:] = self._nominal
        self._relaxed = self.first_conflict(pose[None]) is not None
        names = []
        for pair, distance in self._distances():
            self.model.pair_margin[pair] = distance - SLACK
            names.append(self._name(pair))
        return names

    def tighten(self, poses: np.ndarray) -> None:
        """Demand from now on the distances of these poses, (n, joints), where less than the clearance was demanded."""
        if not self._relaxed:
            return
        demanded = self.model.pair_margin.copy()
        reached = self._nominal.copy()
        self.model.pair_margin[:] = self._nominal
        for pose in poses:
            self.first_conflict(pose[None])
            for pair, distance in self._distances():
                reached[pair] = min(reached[pair], distance - SLACK)
        self.model.pair_margin[:] = np.maximum(demanded, reached)
        self._relaxed = bool((self.model.pair_margin < self._nominal).any())

    def _distances(self) -> Iterator[tuple[int, float]]:
        """Pairs that are too near at the last checked pose, with their distances."""
        nearest: dict[int, float] = defaultdict(lambda: np.inf)
        for contact in self.data.contact:
            pair = self._pairs[frozenset((int(contact.geom1), int(contact.geom2)))]
            nearest[pair] = min(nearest[pair], float(contact.dist))
        yield from nearest.items()

    def _name(self, pair: int) -> str:
        geoms = (self.model.pair_geom1[pair], self.model.pair_geom2[pair])
        # A plane has its own name, a part that of its link.
        planes = [self.model.geom_type[geom] == mujoco.mjtGeom.mjGEOM_PLANE for geom in geoms]
        names = [
            self.model.geom(geom).name if plane else self.model.body(self.model.geom_bodyid[geom]).name
            for geom, plane in zip(geoms, planes, strict=True)
        ]
        return " and ".join(names)


class _Part(NamedTuple):
    """Part of a link: corners of its convex hull, (n, 3) in the link's frame, and its axes of inertia."""

    body: str
    corners: np.ndarray
    inertial: np.ndarray


@functools.cache
def _parts() -> list[_Part]:
    """Parts of the whole arm."""
    model = mujoco.MjSpec.from_file(str(SO101.mjcf())).compile()
    links = []
    for geom in range(model.ngeom):
        body = model.body(model.geom_bodyid[geom]).name
        # Every mesh stands twice in the model, to be drawn and for contacts; that of the base only to be drawn.
        solid = model.geom_contype[geom] or body == BASE
        if solid and model.geom_type[geom] == mujoco.mjtGeom.mjGEOM_MESH:
            mesh = model.geom_dataid[geom]
            start = model.mesh_vertadr[mesh]
            corners = model.mesh_vert[start : start + model.mesh_vertnum[mesh]].astype(float)
            corners = corners[ConvexHull(corners).vertices]
            corners = corners @ _matrix(model.geom_quat[geom]).T + model.geom_pos[geom]
            links.append(_Part(body, corners, model.geom_quat[geom].copy()))
    return links


def _checked_model(limits: SafetyLimits) -> mujoco.MjModel:
    """Model with a box around each part, hulls of the moving parts, the table and walls, and the pairs to check."""
    spec = mujoco.MjSpec.from_file(str(SO101.mjcf()))
    boxes: dict[str, list[str]] = defaultdict(list)
    hulls: list[str] = []
    for geom in list(spec.geoms):
        geom.delete()
    for mesh in list(spec.meshes):
        mesh.delete()  # their faces are not used here and would cost more than all checks
    for body, corners, inertial in _parts():
        name = f"{body}_{len(boxes[body])}"
        boxes[body].append(name)
        centre, half, quat = _box_around(corners, inertial)
        # The clearance is part of the boxes: with a margin instead, MuJoCo misses some boxes that do not touch yet.
        half = half + limits.self_collision.clearance / 2
        kind = mujoco.mjtGeom.mjGEOM_BOX
        spec.body(body).add_geom(name=name, type=kind, pos=centre, size=half, quat=quat, contype=0, conaffinity=0)
        if body in CONFINED:
            hulls.append(f"{name}_hull")
            spec.add_mesh(name=hulls[-1], uservert=corners.ravel())
            kind = mujoco.mjtGeom.mjGEOM_MESH
            spec.body(body).add_geom(name=hulls[-1], type=kind, meshname=hulls[-1], contype=0, conaffinity=0)
    for a, partners in MEETING.items():
        for first, second in itertools.product(boxes[a], itertools.chain(*(boxes[b] for b in partners))):
            spec.add_pair(geomname1=first, geomname2=second)
    for plane, hull in itertools.product(_planes(spec, limits), hulls):
        spec.add_pair(geomname1=plane, geomname2=hull, margin=limits.workspace.clearance)
    return spec.compile()


def _box_around(points: np.ndarray, inertial: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Centre, half sizes and quaternion of the smaller of two boxes around points (n, 3).

    One is aligned with the points' frame, the other with the part's axes of inertia, a quaternion.
    """
    candidates = []
    for quat in (np.array([1.0, 0, 0, 0]), inertial):
        turned = points @ _matrix(quat)
        low, high = turned.min(axis=0), turned.max(axis=0)
        candidates.append((_matrix(quat) @ (low + high) / 2, (high - low) / 2, quat))
    return min(candidates, key=lambda box: np.prod(box[1]))


def _matrix(quat: np.ndarray) -> np.ndarray:
    matrix = np.zeros(9)
    mujoco.mju_quat2Mat(matrix, np.asarray(quat, dtype=float))
    return matrix.reshape(3, 3)


def _planes(spec: mujoco.MjSpec, limits: SafetyLimits) -> list[str]:
    """Add the table and five walls, which face inwards; returns their names."""
    box = limits.workspace
    planes = {
        TABLE: ((0, 0, box.table), (0, 0, 1)),
        "wall_x_min": ((box.x[0], 0, 0), (1, 0, 0)),
        "wall_x_max": ((box.x[1], 0, 0), (-1, 0, 0)),
        "wall_y_min": ((0, box.y[0], 0), (0, 1, 0)),
        "wall_y_max": ((0, box.y[1], 0), (0, -1, 0)),
        "wall_z_max": ((0, 0, box.z_max), (0, 0, -1)),
    }
    for name, (point, normal) in planes.items():
        facing = np.zeros(4)
        mujoco.mju_quatZ2Vec(facing, np.array(normal, dtype=float))
        spec.worldbody.add_geom(
            name=name,
            type=mujoco.mjtGeom.mjGEOM_PLANE,
            size=(1, 1, 0.1),
            pos=point,
            quat=facing,
            contype=0,
            conaffinity=0,
        )
    return list(planes)
