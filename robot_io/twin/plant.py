"""The arm's body: MuJoCo moved by the drives, and by what people and accidents do to it."""

from collections import deque
from collections.abc import Mapping, Sequence

import mujoco
import numpy as np

from .drives import STEPS_A_RADIAN, Drives, Drivetrain
from .scene import JOINTS, Scene
from .servo import SUPPLY, Senses, Servo

_HAND_STIFFNESS, _HAND_DAMPING = 40.0, 2.0  # N·m/rad, N·m·s/rad
_HAND_TORQUE = 2.0  # N·m: less than a servo, more than gears and gravity
_HAND_SPEED = 1.5  # rad/s
_HAND_CLOSE = 0.02  # rad
_STUCK = 500.0  # N·m·s/rad
_SAG = 0.15  # V that a servo at stall takes from the supply
_PROTECTION_PERIOD = 10  # physics steps between two looks at temperature and overload
_BROWN_OUT = 3.5  # V
_START_UP = 0.3  # seconds that a servo says nothing after it has lost power


class Plant:
    """One arm and its servos. Arrays are (6,), in the order of JOINTS.

    Args:
        scene: the world; its model's actuators are retuned to be the servos.
        servos: one a joint.
        mounting: (6,) steps, see `Drives`.
        drivetrain: of the servos.
    """

    def __init__(self, scene: Scene, servos: Sequence[Servo], mounting: Sequence[int], drivetrain: Drivetrain):
        self.scene, self.servos = scene, list(servos)
        self.model, self.data = scene.model, scene.data
        self.timestep = float(self.model.opt.timestep)
        self.drives = Drives(servos, mounting, drivetrain, self.timestep)
        joints = [self.model.joint(name) for name in JOINTS]
        self._qpos = np.array([joint.qposadr[0] for joint in joints])
        self._dof = np.array([joint.dofadr[0] for joint in joints])
        self._actuators = np.array([self.model.actuator(name).id for name in JOINTS])
        self.limits = np.array([joint.range for joint in joints])  # (6, 2), radians
        self.model.actuator_ctrllimited[self._actuators] = 0  # a servo pushes against a stop if told to
        self._damping = self.model.dof_damping[self._dof].copy()
        self._push = np.zeros(len(JOINTS))
        self._hand_now = np.full(len(JOINTS), np.nan)  # nan: not held
        self._hand_goal = np.full(len(JOINTS), np.nan)
        self._hand_next: deque[np.ndarray] = deque()
        arm = self.model.joint(JOINTS[0]).bodyid[0]
        self._shell = self.model.body_rootid[self.model.geom_bodyid] == self.model.body_rootid[arm]
        self._contacts = self.model.geom_contype.copy(), self.model.geom_conaffinity.copy()
        self._steps = 0
        self.supply = SUPPLY
        self.settle()

    @property
    def angles(self) -> np.ndarray:
        """The joints' true angles, radians."""
        return self.data.qpos[self._qpos]

    @property
    def speeds(self) -> np.ndarray:
        """The joints' true speeds, radians/s."""
        return self.data.qvel[self._dof]

    @property
    def load(self) -> np.ndarray:
        """The servos' torques as shares of the stall torque, in [-1, 1]."""
        return np.clip(self.data.actuator_force[self._actuators] / self.drives.drivetrain.stall, -1.0, 1.0)

    def step(self) -> None:
        """Advance by one `timestep`."""
        angles = self.angles
        self._actuate(self.drives.step(angles))
        self.data.qfrc_applied[self._dof] = self._push + self._hand(angles)
        mujoco.mj_step(self.model, self.data)
        self._steps += 1
        if self._steps % _PROTECTION_PERIOD == 0:
            self.sense(_PROTECTION_PERIOD * self.timestep)

    def _actuate(self, targets: np.ndarray) -> None:
        """Make MuJoCo's actuators what the drives are now."""
        drives = self.drives
        self.data.ctrl[self._actuators] = targets
        self.model.actuator_gainprm[self._actuators, 0] = drives.stiffness
        self.model.actuator_biasprm[self._actuators, 1] = -drives.stiffness
        self.model.actuator_biasprm[self._actuators, 2] = -drives.drivetrain.damping * (drives.stiffness > 0)
        self.model.actuator_forcerange[self._actuators, 0] = -drives.torque_limit
        self.model.actuator_forcerange[self._actuators, 1] = drives.torque_limit

    def sense(self, dt: float = 0.0) -> None:
        """Let the servos measure, and watch over themselves for the `dt` seconds that have passed."""
        positions = self.drives.encoder(self.angles)
        velocities = self.data.qvel[self._dof] * STEPS_A_RADIAN
        load = self.load
        voltage = self.supply - _SAG * float(np.abs(load).sum())
        for servo, position, velocity, share in zip(self.servos, positions, velocities, load, strict=True):
            servo.live(dt, Senses(float(position), float(velocity), float(share), voltage))

    def reset(self, seed: int, move_arm: bool = True) -> None:
        """Begin an episode of the scene; the servos keep their memory. move_arm: False leaves the arm as it is."""
        self.scene.reset(seed, move_arm)
        if move_arm:
            self.settle()

    def place(self, qpos: Sequence[float], qvel: Sequence[float] | None = None) -> None:
        """Put everything in the scene where `qpos`, the model's whole vector, says; at rest unless `qvel` is given."""
        self.data.qpos[:] = qpos
        self.data.qvel[:] = 0.0 if qvel is None else qvel
        self.settle()

    def settle(self) -> None:
        """After a jump: goals are where the joints are now."""
        self.release()
        self.sense()
        for servo in self.servos:
            if servo.get("Torque_Enable"):
                servo.set("Goal_Position", servo.position)
        self.drives.restart(self.angles)
        self._actuate(self.angles)
        mujoco.mj_forward(self.model, self.data)
        self.sense()

    # --- people ---

    def hold(self, angles: Mapping[str, float]) -> None:
        """Take joints by the hand and move them to angles in radians, at the speed of a hand. Torque is stronger."""
        for name, angle in angles.items():
            joint = JOINTS.index(name)
            if np.isnan(self._hand_now[joint]):
                self._hand_now[joint] = self.angles[joint]
            self._hand_goal[joint] = np.clip(angle, *self.limits[joint])

    def sweep(self) -> None:
        """Move all joints by the hand through their whole ranges, and to the middle in the end."""
        # The hulls that collide are wider than the arm: with them it would not reach its stops.
        self.model.geom_contype[self._shell] = self.model.geom_conaffinity[self._shell] = 0
        middle = self.limits.mean(axis=1)
        self.hold(dict(zip(JOINTS, middle, strict=True)))
        self._hand_next = deque([*self.limits.T, middle])

    def release(self) -> None:
        """Let go of all joints."""
        self._hand_now[:] = self._hand_goal[:] = np.nan
        self._hand_next.clear()
        self.model.geom_contype[:], self.model.geom_conaffinity[:] = self._contacts

    @property
    def hand_arrived(self) -> bool:
        """Whether the hand has nothing left to move."""
        return not self._hand_next and bool(np.all(np.isnan(self._hand_now) | (self._hand_now == self._hand_goal)))

    def _hand(self, angles: np.ndarray) -> np.ndarray:
        if np.isnan(self._hand_now).all():
            return np.zeros(len(JOINTS))
        if self._hand_next and np.allclose(angles, self._hand_goal, atol=_HAND_CLOSE):
            self._hand_goal[:] = self._hand_next.popleft()
        reach = _HAND_SPEED * self.timestep
        self._hand_now += np.clip(self._hand_goal - self._hand_now, -reach, reach)
        pull = _HAND_STIFFNESS * (self._hand_now - angles) - _HAND_DAMPING * self.data.qvel[self._dof]
        pull += self.data.qfrc_bias[self._dof]  # it carries the arm's weight
        return np.nan_to_num(np.clip(pull, -_HAND_TORQUE, _HAND_TORQUE))

    # --- accidents ---

    def jam(self, joint: int, jammed: bool = True) -> None:
        """Make a joint stuck, or free again."""
        self.model.dof_damping[self._dof[joint]] = _STUCK if jammed else self._damping[joint]

    def push(self, joint: int, torque: float) -> None:
        """Push a joint with a lasting torque in N·m; 0 ends it."""
        self._push[joint] = torque

    def brown_out(self, servo: int) -> None:
        """The servo's supply breaks down for a moment: it starts anew."""
        self.servos[servo].power_up(_START_UP)

    def power_sag(self, sagging: bool = True) -> None:
        """The supply is too weak for all servos, or right again."""
        self.supply = _BROWN_OUT if sagging else SUPPLY
