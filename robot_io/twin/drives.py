"""How the servos of an arm move it: from goals in registers to torques on joints, all joints at once."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..feetech.registers import RESOLUTION, VELOCITY_MODE
from .servo import Servo

STEPS_A_RADIAN = RESOLUTION / (2 * np.pi)
_FASTEST = 3400.0  # steps/s of an STS3215 at 7.4 V without load: 50 turns a minute
_HALF_TURN = RESOLUTION // 2


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


class Drives:
    """The drives of n servos. All arrays are float64 (n,), angles in radians of the MuJoCo joints.

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
