"""The arm's body: MuJoCo moved by its servos, and by what people and accidents do to it."""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import mujoco
import numpy as np

from ..feetech.registers import RESOLUTION, VELOCITY_MODE
from .bare_arm import JOINTS, Scene
from .servo import SUPPLY, Measurements, Servo

STEPS_A_RADIAN = RESOLUTION / (2 * np.pi)
_FASTEST = 3400.0  # steps/s of an STS3215 at 7.4 V without load: 50 turns a minute
_HALF_TURN = RESOLUTION // 2
_HAND_STIFFNESS, _HAND_DAMPING = 40.0, 2.0  # N·m/rad, N·m·s/rad
_HAND_TORQUE = 2.0  # N·m: less than a servo, more than gears and gravity
_HAND_SPEED = 1.5  # rad/s
_HAND_CLOSE = 0.02  # rad
_STUCK = 500.0  # N·m·s/rad
_SAG = 0.15  # V that a servo at stall takes from the supply
_PROTECTION_PERIOD = 10  # physics steps between two looks at temperature and overload
_BROWN_OUT = 3.5  # V
_START_UP = 0.3  # seconds that a servo says nothing after it has lost power


@dataclass(frozen=True)
class Drivetrain:
    """What the registers do not say about a servo and its gears.

    stiffness: N·m/rad at P_Coefficient 16, and damping: N·m·s/rad, of the position control; stall: N·m.
    latency: seconds from a goal's arrival to the first motion. backlash: play of the gears in radians, end to end.
    """

    stiffness: float = 998.22
    damping: float = 2.731
    stall: float = 2.94
    latency: float = 0.004
    backlash: float = 0.004


class PositionControl:
    """The control of n servos. All arrays are float64 (n,), angles in radians of the MuJoCo joints.

    Args:
        servos: one a joint.
        mounting: (n,) int, steps that each horn is turned against its servo: the servo reads 2048 + mounting where
            the joint is at 0.
        drivetrain: of all servos.
        dt: seconds a call of `step` is for.
    """

    def __init__(self, servos: Sequence[Servo], mounting: Sequence[int], drivetrain: Drivetrain, dt: float):
        self.servos = list(servos)
        self.drivetrain = drivetrain
        n = len(self.servos)
        self.torque_limit = np.zeros(n)  # N·m
        self.stiffness = np.zeros(n)  # N·m/rad, 0 without torque
        self._dt = dt
        self._encoder_zero = _HALF_TURN + np.asarray(mounting, dtype=np.float64)
        self._goal, self._position, self._velocity, self._setpoint = np.zeros((4, n))
        self._top_speed, self._acceleration, self._dead_zone, self._share = np.zeros((4, n))
        self._on = np.zeros(n, dtype=bool)
        self._spinning = np.zeros(n, dtype=bool)
        self._delayed = np.zeros((max(1, round(drivetrain.latency / dt) + 1), n))
        self._tick = 0

    def encoder(self, angles: np.ndarray) -> np.ndarray:
        """The servos' positions in steps, not wrapped, before their homing offset."""
        return angles * STEPS_A_RADIAN + self._encoder_zero

    def step(self, angles: np.ndarray) -> np.ndarray:
        """Where the position control pulls the joints to, from where they are; `dt` passes.

        The control's torque is stiffness · (returned - angles) - damping · velocity, within ±torque_limit.
        """
        for index, servo in enumerate(self.servos):
            if servo.changed:
                self._take_over(index, servo, angles)
        dt, distance = self._dt, self._goal - self._position
        braking = np.sqrt(2 * self._acceleration * np.abs(distance))
        wanted = np.sign(distance) * np.minimum(self._top_speed, braking)
        wanted = np.where(self._spinning, self._top_speed * np.sign(self._goal), wanted)
        change = self._acceleration * dt
        self._velocity += np.clip(wanted - self._velocity, -change, change)
        arrived = ~self._spinning & (np.abs(distance) <= np.maximum(np.abs(self._velocity), change) * dt)
        self._position = np.where(arrived, self._goal, self._position + self._velocity * dt)
        self._velocity[arrived] = 0.0

        self._delayed[self._tick % len(self._delayed)] = self._position
        self._tick += 1
        late = self._delayed[self._tick % len(self._delayed)]
        play = self.drivetrain.backlash / 2
        self._setpoint = np.clip(self._setpoint, late - play, late + play)

        error = self._setpoint - angles
        pull = np.sign(error) * np.maximum(np.abs(error) - self._dead_zone, 0.0)
        return np.where(self._on, angles + pull, angles)

    def restart(self, angles: np.ndarray) -> None:
        """Begin from rest where the joints are now, as after a jump of the simulation."""
        self._position[:] = self._setpoint[:] = self._delayed[:] = angles
        self._velocity[:] = 0.0
        for index, servo in enumerate(self.servos):
            self._take_over(index, servo, angles)

    def _take_over(self, index: int, servo: Servo, angles: np.ndarray) -> None:
        """Read one servo's registers again."""
        servo.changed = False
        get = servo.get
        self._share[index] = servo.torque_share
        on = self._share[index] > 0
        if not on or not self._on[index]:  # start from rest, where the joint is
            self._position[index] = self._setpoint[index] = self._delayed[:, index] = angles[index]
            self._velocity[index] = 0.0
        self._on[index] = on
        self.torque_limit[index] = self._share[index] * self.drivetrain.stall
        self.stiffness[index] = on * self.drivetrain.stiffness * get("P_Coefficient") / 16
        self._dead_zone[index] = max(get("CW_Dead_Zone"), get("CCW_Dead_Zone")) / STEPS_A_RADIAN
        fastest = min(_FASTEST, get("Maximum_Velocity_Limit") * 50 or _FASTEST)
        speed = get("Goal_Velocity")
        self._spinning[index] = get("Operating_Mode") == VELOCITY_MODE
        self._top_speed[index] = min(abs(speed) or fastest, fastest) / STEPS_A_RADIAN
        steps = min(get("Acceleration") or 254, get("Maximum_Acceleration") or 254) * 100
        self._acceleration[index] = steps / STEPS_A_RADIAN
        if self._spinning[index]:
            self._goal[index] = speed  # only its sign counts
            self._top_speed[index] *= speed != 0
            return
        low, high, goal = get("Min_Position_Limit"), get("Max_Position_Limit"), get("Goal_Position")
        if low < high:
            goal = min(max(goal, low), high)
        # The goal lies in the turn of the shaft that the joint is in now.
        counted = self.encoder(angles)[index] - get("Homing_Offset")
        turn = np.floor(counted / RESOLUTION) * RESOLUTION
        self._goal[index] = (goal + turn + get("Homing_Offset") - self._encoder_zero[index]) / STEPS_A_RADIAN


class ArmPhysics:
    """One arm and its servos. Arrays are (6,), in the order of JOINTS.

    Args:
        scene: the world; its model's actuators are retuned to be the servos.
        servos: one a joint.
        mounting: (6,) steps, see `PositionControl`.
        drivetrain: of the servos.
    """

    def __init__(self, scene: Scene, servos: Sequence[Servo], mounting: Sequence[int], drivetrain: Drivetrain):
        self.scene, self.servos = scene, list(servos)
        self.model, self.data = scene.model, scene.data
        self.timestep = float(self.model.opt.timestep)
        self.control = PositionControl(servos, mounting, drivetrain, self.timestep)
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
        return np.clip(self.data.actuator_force[self._actuators] / self.control.drivetrain.stall, -1.0, 1.0)

    def step(self) -> None:
        """Advance by one `timestep`."""
        angles = self.angles
        self._actuate(self.control.step(angles))
        self.data.qfrc_applied[self._dof] = self._push + self._hand(angles)
        mujoco.mj_step(self.model, self.data)
        self._steps += 1
        if self._steps % _PROTECTION_PERIOD == 0:
            self.sense(_PROTECTION_PERIOD * self.timestep)

    def _actuate(self, targets: np.ndarray) -> None:
        """Make MuJoCo's actuators what the control are now."""
        control = self.control
        self.data.ctrl[self._actuators] = targets
        self.model.actuator_gainprm[self._actuators, 0] = control.stiffness
        self.model.actuator_biasprm[self._actuators, 1] = -control.stiffness
        self.model.actuator_biasprm[self._actuators, 2] = -control.drivetrain.damping * (control.stiffness > 0)
        self.model.actuator_forcerange[self._actuators, 0] = -control.torque_limit
        self.model.actuator_forcerange[self._actuators, 1] = control.torque_limit

    def sense(self, dt: float = 0.0) -> None:
        """Let the servos measure, and watch over themselves for the `dt` seconds that have passed."""
        positions = self.control.encoder(self.angles)
        velocities = self.data.qvel[self._dof] * STEPS_A_RADIAN
        load = self.load
        voltage = self.supply - _SAG * float(np.abs(load).sum())
        for servo, position, velocity, share in zip(self.servos, positions, velocities, load, strict=True):
            servo.live(dt, Measurements(float(position), float(velocity), float(share), voltage))

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
        self.control.restart(self.angles)
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
