"""Physics of the twin: MuJoCo moved by the position control of the servos, by people and by accidents."""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import mujoco
import numpy as np

from tinyvla.arms.simulated import ArmScene
from tinyvla.arms.so101 import SO101

from ..feetech.registers import PWM_MODE, RESOLUTION, VELOCITY_MODE
from .servo import Measurements, Servo

STEPS_PER_RADIAN = RESOLUTION / (2 * np.pi)
_HALF_TURN = RESOLUTION // 2
_HAND_STIFFNESS, _HAND_DAMPING = 40.0, 2.0  # N·m/rad, N·m·s/rad
_HAND_TORQUE = 2.0  # N·m: less than a servo, more than gears and gravity
_HAND_SPEED = 1.5  # rad/s
_HAND_CLOSE = 0.02  # rad
_LEAD = 0.1  # rad by which the setpoint of the velocity mode runs ahead of a joint that is blocked
_STUCK = 500.0  # N·m·s/rad
_SAG = 0.15  # V by which a servo at stall lowers the supply
_PROTECTION_PERIOD = 10  # physics steps between two checks of temperature and overload
_BROWN_OUT = 3.5  # V
_START_UP = 0.3  # seconds for which a servo does not answer after a loss of power


@dataclass(frozen=True)
class Drivetrain:
    """Properties of a servo and its gears that are not in its registers.

    Args:
        stiffness: of the position control at P_Coefficient 16, N·m/rad.
        damping: of the position control, N·m·s/rad.
        stall: greatest torque, N·m. 2.94, that of the arm's MuJoCo model, belongs to servos of 12 V.
        latency: seconds from a goal's arrival to the first motion.
        backlash: play of the gears in radians, end to end.
    """

    stiffness: float = 998.22
    damping: float = 2.731
    stall: float = 2.94
    latency: float = 0.004
    backlash: float = 0.004


class PositionControl:
    """Position control of n servos: from goals in their registers to targets of all joints at once.

    All arrays are float64 (n,), angles in radians of the MuJoCo joints. torque_limit: N·m. stiffness: N·m/rad, 0
    without torque and in PWM mode. damping: N·m·s/rad. torque: N·m of the PWM mode, without control.

    Args:
        servos: one per joint.
        mounting: (n,) int, steps by which each horn is turned against its servo: the servo reads 2048 + mounting where
            the joint is at 0.
        drivetrain: of all servos.
        dt: seconds per call of `step`.
    """

    def __init__(self, servos: Sequence[Servo], mounting: Sequence[int], drivetrain: Drivetrain, dt: float):
        self.servos = list(servos)
        self.drivetrain = drivetrain
        n = len(self.servos)
        self.torque_limit = np.zeros(n)
        self.stiffness, self.damping, self.torque = np.zeros((3, n))
        self._polarity = np.ones(n)
        self._dt = dt
        self._encoder_zero = _HALF_TURN + np.asarray(mounting, dtype=np.float64)
        self._goal, self._position, self._velocity, self._setpoint = np.zeros((4, n))
        self._top_speed, self._acceleration, self._dead_zone, self._share = np.zeros((4, n))
        self._on = np.zeros(n, dtype=bool)
        self._spinning = np.zeros(n, dtype=bool)
        self._delayed = np.zeros((max(1, round(drivetrain.latency / dt) + 1), n))
        self._tick = 0

    def encoder(self, angles: np.ndarray) -> np.ndarray:
        """Positions of the servos in steps, not wrapped, before their homing offset."""
        return angles * STEPS_PER_RADIAN + self._encoder_zero

    def step(self, angles: np.ndarray) -> np.ndarray:
        """Advance by `dt`; returns the angles to which the position control pulls the joints from `angles`.

        The torque is stiffness · (returned - angles) - damping · velocity + torque, within ±torque_limit.
        """
        for index, servo in enumerate(self.servos):
            if servo.changed:
                self._read_registers(index, servo, angles)
        dt, distance = self._dt, self._goal - self._position
        braking = np.sqrt(2 * self._acceleration * np.abs(distance))
        velocity = np.sign(distance) * np.minimum(self._top_speed, braking)
        velocity = np.where(self._spinning, self._top_speed * np.sign(self._goal), velocity)
        change = self._acceleration * dt
        self._velocity += np.clip(velocity - self._velocity, -change, change)
        arrived = ~self._spinning & (np.abs(distance) <= np.maximum(np.abs(self._velocity), change) * dt)
        self._position = np.where(arrived, self._goal, self._position + self._velocity * dt)
        self._velocity[arrived] = 0.0
        if self._spinning.any():
            ahead = np.clip(self._position, angles - _LEAD, angles + _LEAD)
            self._position = np.where(self._spinning, ahead, self._position)

        self._delayed[self._tick % len(self._delayed)] = self._position
        self._tick += 1
        late = self._delayed[self._tick % len(self._delayed)]
        play = self.drivetrain.backlash / 2
        self._setpoint = np.clip(self._setpoint, late - play, late + play)

        error = self._setpoint - angles
        pull = np.sign(error) * np.maximum(np.abs(error) - self._dead_zone, 0.0)
        return np.where(self._on, angles + self._polarity * pull, angles)

    def restart(self, angles: np.ndarray) -> None:
        """Begin at rest at these angles, as after a jump of the simulation."""
        self._position[:] = self._setpoint[:] = self._delayed[:] = angles
        self._velocity[:] = 0.0
        for index, servo in enumerate(self.servos):
            self._read_registers(index, servo, angles)

    def _read_registers(self, index: int, servo: Servo, angles: np.ndarray) -> None:
        """Take over the settings of one servo."""
        servo.changed = False
        get, mode = servo.get, servo.get("Operating_Mode")
        self._share[index] = servo.torque_share
        powered = self._share[index] > 0
        on = powered and mode != PWM_MODE
        if not on or not self._on[index]:  # the control starts at rest at the present angle
            self._position[index] = self._setpoint[index] = self._delayed[:, index] = angles[index]
            self._velocity[index] = 0.0
        self._on[index] = on
        self._polarity[index] = servo.polarity
        self.torque_limit[index] = self._share[index] * self.drivetrain.stall
        self.stiffness[index] = on * self.drivetrain.stiffness * get("P_Coefficient") / 16
        self.damping[index] = self.drivetrain.damping * (self.stiffness[index] > 0)
        self.torque[index] = 0.0
        if powered and mode == PWM_MODE:  # a motor at a voltage loses torque as it gets faster
            self.torque[index] = servo.goal_duty * self.drivetrain.stall
            self.damping[index] = self.drivetrain.stall * STEPS_PER_RADIAN / servo.model.fastest
        self._dead_zone[index] = max(get("CW_Dead_Zone"), get("CCW_Dead_Zone")) / STEPS_PER_RADIAN
        fastest = min(servo.model.fastest, get("Maximum_Velocity_Limit") * 50 or servo.model.fastest)
        speed = servo.goal_speed
        self._spinning[index] = mode == VELOCITY_MODE
        self._top_speed[index] = min(abs(speed), fastest) / STEPS_PER_RADIAN
        steps = min(get("Acceleration") or 254, get("Maximum_Acceleration") or 254) * 100
        self._acceleration[index] = steps / STEPS_PER_RADIAN
        if self._spinning[index]:
            self._goal[index] = speed  # only its sign counts
            return
        goal = servo.shaft_goal(self.encoder(angles)[index])
        self._goal[index] = (goal - self._encoder_zero[index]) / STEPS_PER_RADIAN


class ArmPhysics:
    """Simulation of one arm and its servos. Arrays are (6,), in the order of `SO101.joints`.

    limits: (6, 2) of the joints in radians. supply: V, at first that of the servos' model.

    Args:
        scene: the world. The actuators of its model are changed to the servos.
        servos: one per joint.
        mounting: (6,) steps, see `PositionControl`.
        drivetrain: of the servos.
    """

    def __init__(self, scene: ArmScene, servos: Sequence[Servo], mounting: Sequence[int], drivetrain: Drivetrain):
        self.scene, self.servos = scene, list(servos)
        self.model, self.data = scene.model, scene.data
        self.timestep = float(self.model.opt.timestep)
        self.control = PositionControl(servos, mounting, drivetrain, self.timestep)
        joints = [self.model.joint(name) for name in SO101.joints]
        self._qpos = np.array([joint.qposadr[0] for joint in joints])
        self._dof = np.array([joint.dofadr[0] for joint in joints])
        self._actuators = np.array([self.model.actuator(name).id for name in SO101.joints])
        self.limits = np.array([joint.range for joint in joints])
        self.model.actuator_ctrllimited[self._actuators] = 0  # a servo pushes against a stop if its goal lies beyond
        self._damping = self.model.dof_damping[self._dof].copy()
        self._push = np.zeros(len(SO101.joints))
        self._hand_angle = np.full(len(SO101.joints), np.nan)  # nan: released
        self._hand_goal = np.full(len(SO101.joints), np.nan)
        self._hand_waypoints: deque[np.ndarray] = deque()
        arm = self.model.joint(SO101.joints[0]).bodyid[0]
        self._arm_geoms = self.model.body_rootid[self.model.geom_bodyid] == self.model.body_rootid[arm]
        self._collision_bits = self.model.geom_contype.copy(), self.model.geom_conaffinity.copy()
        self._steps = 0
        self.supply = self._nominal_supply = self.servos[0].model.supply
        self.settle()

    @property
    def angles(self) -> np.ndarray:
        """True angles of the joints, radians."""
        return self.data.qpos[self._qpos]

    @property
    def speeds(self) -> np.ndarray:
        """True speeds of the joints, radians/s."""
        return self.data.qvel[self._dof]

    @property
    def load(self) -> np.ndarray:
        """Torques of the servos as shares of the stall torque, in [-1, 1]."""
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
        """Set the actuators of MuJoCo to the present state of the position control."""
        control = self.control
        self.data.ctrl[self._actuators] = targets
        self.model.actuator_gainprm[self._actuators, 0] = control.stiffness
        self.model.actuator_biasprm[self._actuators, 1] = -control.stiffness
        self.model.actuator_biasprm[self._actuators, 0] = control.torque
        self.model.actuator_biasprm[self._actuators, 2] = -control.damping
        self.model.actuator_forcerange[self._actuators, 0] = -control.torque_limit
        self.model.actuator_forcerange[self._actuators, 1] = control.torque_limit

    def sense(self, dt: float = 0.0) -> None:
        """Update the measurements of the servos, and their protections by `dt` seconds."""
        positions = self.control.encoder(self.angles)
        velocities = self.data.qvel[self._dof] * STEPS_PER_RADIAN
        load = self.load
        voltage = self.supply - _SAG * float(np.abs(load).sum())
        for servo, position, velocity, share in zip(self.servos, positions, velocities, load, strict=True):
            servo.update(dt, Measurements(float(position), float(velocity), float(share), voltage))

    def reset(self, seed: int, move_arm: bool = True) -> None:
        """Begin an episode of the scene. The servos keep their memory. move_arm: False leaves the arm where it is."""
        self.scene.reset(seed, move_arm)
        if move_arm:
            self.settle()

    def place(self, qpos: Sequence[float], qvel: Sequence[float] | None = None) -> None:
        """Set the state of the whole scene, `qpos` and `qvel` of the model; at rest without `qvel`."""
        self.data.qpos[:] = qpos
        self.data.qvel[:] = 0.0 if qvel is None else qvel
        self.settle()

    def settle(self) -> None:
        """Set goals and control to the present angles, as after a jump of the simulation."""
        self.release()
        self.sense()
        for servo in self.servos:
            if servo.get("Torque_Enable"):
                servo.hold()
        self.control.restart(self.angles)
        self._actuate(self.angles)
        mujoco.mj_forward(self.model, self.data)
        self.sense()

    # --- people ---

    def hold(self, angles: Mapping[str, float]) -> None:
        """Move joints by hand to angles in radians, at the speed and with the force of a hand. Servos are stronger."""
        for name, angle in angles.items():
            joint = SO101.joints.index(name)
            if np.isnan(self._hand_angle[joint]):
                self._hand_angle[joint] = self.angles[joint]
            self._hand_goal[joint] = np.clip(angle, *self.limits[joint])

    def sweep(self) -> None:
        """Move all joints by hand through their whole ranges, and to the middle in the end."""
        # The collision hulls are wider than the arm, which could not reach its stops with them.
        self.model.geom_contype[self._arm_geoms] = self.model.geom_conaffinity[self._arm_geoms] = 0
        middle = self.limits.mean(axis=1)
        self.hold(dict(zip(SO101.joints, middle, strict=True)))
        self._hand_waypoints = deque([*self.limits.T, middle])

    def release(self) -> None:
        """Release all joints."""
        self._hand_angle[:] = self._hand_goal[:] = np.nan
        self._hand_waypoints.clear()
        self.model.geom_contype[:], self.model.geom_conaffinity[:] = self._collision_bits

    @property
    def hand_arrived(self) -> bool:
        """True if the hand has finished its motion."""
        return not self._hand_waypoints and bool(
            np.all(np.isnan(self._hand_angle) | (self._hand_angle == self._hand_goal))
        )

    def _hand(self, angles: np.ndarray) -> np.ndarray:
        if np.isnan(self._hand_angle).all():
            return np.zeros(len(SO101.joints))
        if self._hand_waypoints and np.allclose(angles, self._hand_goal, atol=_HAND_CLOSE):
            self._hand_goal[:] = self._hand_waypoints.popleft()
        most = _HAND_SPEED * self.timestep
        self._hand_angle += np.clip(self._hand_goal - self._hand_angle, -most, most)
        pull = _HAND_STIFFNESS * (self._hand_angle - angles) - _HAND_DAMPING * self.data.qvel[self._dof]
        pull += self.data.qfrc_bias[self._dof]  # the hand carries the weight of the arm
        return np.nan_to_num(np.clip(pull, -_HAND_TORQUE, _HAND_TORQUE))

    # --- accidents ---

    def jam(self, joint: int, jammed: bool = True) -> None:
        """Block a joint, or free it."""
        self.model.dof_damping[self._dof[joint]] = _STUCK if jammed else self._damping[joint]

    def push(self, joint: int, torque: float) -> None:
        """Push a joint with a lasting torque in N·m; 0 ends it."""
        self._push[joint] = torque

    def brown_out(self, servo: int) -> None:
        """Interrupt the supply of a servo: it starts again."""
        self.servos[servo].power_up(_START_UP)

    def power_sag(self, sagging: bool = True) -> None:
        """Lower the supply of all servos, or restore it."""
        self.supply = _BROWN_OUT if sagging else self._nominal_supply
