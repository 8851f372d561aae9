"""Check of the poses that were sent to an arm against its limits, which shares no code with the safety layer.

For tests of the layer and for recordings of runs. Motion is taken from differences of the poses, and collisions from
MuJoCo's contacts between the arm's own meshes (their convex hulls).
"""

import mujoco
import numpy as np

from tinyvla.arms.so101 import SO101

from .limits import SafetyLimits
from .monitors import Reaction

ROUNDING = 1e-6  # relative, of speed, acceleration and jerk; degrees, of positions; metres, of distances
ALIGNED = 6.0  # LeRobot's units between a command and the arm that is near to it
CONFINED = SO101.links[SO101.links.index("lower_arm") :]
ARM, ROOM = 1, 2  # bits of MuJoCo's contact filter


class Auditor:
    """Finds the limits that a sequence of poses breaks."""

    def __init__(self, limits: SafetyLimits) -> None:
        self.limits = limits
        joints = list(limits.joints.values())
        self._low, self._high = np.array([joint.min for joint in joints]), np.array([joint.max for joint in joints])
        self._limits = {
            "speed": np.array([joint.speed for joint in joints]),
            "acceleration": np.array([joint.acceleration for joint in joints]),
            "jerk": np.array([joint.jerk for joint in joints]),
        }
        if limits.model is not None:
            self._model = _model_in_room(limits)
            self._data = mujoco.MjData(self._model)

    def broken(self, poses: np.ndarray, between: int = 1) -> list[str]:
        """Broken limits of a sequence of poses, one line each.

        Args:
            poses: (ticks, joints) in LeRobot's units, one tick apart, the first of them at rest.
            between: number of poses between two that are checked for collisions, though not for the clearance.
        """
        return self.motion(poses) + (self.collisions(poses, between) if self.limits.model is not None else [])

    def motion(self, poses: np.ndarray) -> list[str]:
        """Broken limits of position, speed, acceleration and jerk."""
        if not np.isfinite(poses).all():
            return ["a pose is not finite"]
        faults = []
        beyond = np.maximum(self._low - poses, poses - self._high)
        if (worst := beyond.max()) > ROUNDING:
            faults.append(f"position: {worst:.3g} beyond a limit")
        differences = np.concatenate([poses[:1]] * 3 + [poses])
        for name, limit in self._limits.items():
            differences = np.diff(differences, axis=0) * self.limits.rate_hz
            if (share := (np.abs(differences) / limit).max()) > 1 + ROUNDING:
                faults.append(f"{name}: {share:.6f} of its limit")
        return faults

    def reactions(self, poses: np.ndarray, commands: np.ndarray, reactions: np.ndarray, aligned: bool) -> list[str]:
        """Broken rules of holds: an arm that is held stands still, and then comes to its command slowly.

        Args:
            poses: (ticks + 1, joints), the first of them at rest.
            commands: (ticks, joints), NaN in the ticks without one.
            reactions: (ticks,) of `Reaction`.
            aligned: False if the arm was held before.
        """
        faults = []
        joints = self.limits.joints.values()
        braking = 3 + max(  # ticks from full speed to a standstill, acceleration and jerk one after the other
            self.limits.rate_hz * (joint.speed / joint.acceleration + 2 * joint.acceleration / joint.jerk)
            for joint in joints
        )
        slow = self.limits.align_speed * self._limits["speed"] / self.limits.rate_hz
        moved_at, fast_at = -np.inf, -np.inf  # last ticks in which the arm was allowed to move, and to move fast
        for tick, (command, reaction) in enumerate(zip(commands, reactions, strict=True)):
            step = np.abs(poses[tick + 1] - poses[tick])
            if reaction == Reaction.HOLD:
                if tick - moved_at > braking and step.max() > ROUNDING:
                    faults.append(f"tick {tick}: a held arm moves by {step.max():.3g}")
                aligned = False
                continue
            moved_at = tick
            if reaction == Reaction.FOLLOW:
                distance = np.abs(np.clip(command, self._low, self._high) - poses[tick]).max()
                aligned |= bool(distance <= ALIGNED)
                if not aligned and tick - fast_at > braking and (step > slow * (1 + ROUNDING) + ROUNDING).any():
                    faults.append(f"tick {tick}: {(step / slow).max():.3f} of the speed of alignment")
            else:
                aligned = False
            if aligned or reaction == Reaction.GIVE_WAY:
                fast_at = tick
        return faults

    def collisions(self, poses: np.ndarray, between: int = 1) -> list[str]:
        """Pairs that come too near to each other."""
        faults = []
        for tick, pose in enumerate(poses):
            faults += [f"tick {tick}: {pair}" for pair in self._contacts(pose, at_rest=True)]
            if tick:
                for part in np.arange(1, between + 1) / (between + 1):
                    middle = pose + part * (poses[tick - 1] - pose)
                    faults += [f"before tick {tick}: {pair}" for pair in self._contacts(middle, at_rest=False)]
        return faults

    def _contacts(self, pose: np.ndarray, at_rest: bool) -> list[str]:
        model, data = self._model, self._data
        data.qpos[:-1] = np.deg2rad(pose[:-1])
        low, high = model.jnt_range[-1]
        data.qpos[-1] = low + (high - low) * pose[-1] / 100
        mujoco.mj_kinematics(model, data)
        mujoco.mj_collision(model, data)
        pairs = []
        for contact in data.contact:
            first, second = (model.body(model.geom_bodyid[geom]).name for geom in contact.geom)
            with_room = "world" in (first, second)
            clearance = self.limits.workspace.clearance if with_room else self.limits.self_collision.clearance
            if contact.dist < (clearance if at_rest else 0) - ROUNDING:
                pairs.append(f"{first} and {second}: {contact.dist:.4f} m")
        return pairs


def _model_in_room(limits: SafetyLimits) -> mujoco.MjModel:
    """Model of the stock arm, its base solid, with the table and the walls of the workspace."""
    spec = mujoco.MjSpec.from_file(str(SO101.mjcf()))
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
