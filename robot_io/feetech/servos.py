"""Loads, temperatures and torque of Feetech servos, which LeRobot's robots do not provide."""

import time
from typing import Any

import numpy as np

from tinyvla.errors import UserError

from ..torque import confirm_torque_off, cut_torque

_CONFIRMING = 2  # readings in a row without torque until a servo counts as limp
_GAP_S = 0.1  # seconds without a reading in which a servo may have restarted
_EASED_AFTER = 0.5  # share of Protection_Time
_RELEASED = 0.5  # share of the torque of an eased servo: with less load it does not push any more


class FeetechServos:
    """Servos of a connected LeRobot robot on a Feetech bus, such as an SO-101's `robot.bus`.

    `deployment.arm_session.RobotArm` passes them to the control loop.

    A servo that is overloaded for its Protection_Time keeps a fifth of its torque until torque is switched off. With
    LeRobot's settings the gripper closes with twice its Overload_Torque, so that any object overloads it. Therefore a
    servo that pushes for half that time is eased: while it pushes, its limit is a little below its Overload_Torque.

    Args:
        bus: of the robot.
        every: number of readings between two readings of the temperatures, which change slowly, and of the torque.
        off: torque is off on purpose.
    """

    def __init__(self, bus: Any, every: int = 15, off: bool = False) -> None:
        self._bus, self._every = bus, every
        self._motors = list(bus.motors)
        most = bus.sync_read("Max_Torque_Limit", normalize=False)  # LeRobot halves the gripper's
        overload = bus.sync_read("Overload_Torque", normalize=False)  # percent
        patience = bus.sync_read("Protection_Time", normalize=False)  # 10 ms
        self._most = np.array([max(most[motor], 1) for motor in self._motors], float)
        self._overload = np.array([overload[motor] * 10 for motor in self._motors], float)
        self._bearable = self._overload - 10
        self._patience = np.array([patience[motor] / 100 * _EASED_AFTER for motor in self._motors])
        self._pushing_since: np.ndarray = np.full(len(self._motors), np.inf)
        self._eased: np.ndarray = np.zeros(len(self._motors))  # sign of the load of eased servos, else 0
        self._share = 1.0
        self._reads = 0
        self._values = np.full((2, len(self._motors)), np.nan)
        self._off = off
        self._read_at = -np.inf

    def read(self) -> np.ndarray:
        """Loads and temperatures in °C: (2, joints), in the same memory every time.

        A load is a share of the greatest torque that the servo may use, which LeRobot halves for the gripper.

        Raises ConnectionError if a servo does not answer, and UserError if one has lost its torque: after a dip of its
        supply a servo restarts without torque.
        """
        now = time.monotonic()
        slow = self._reads % self._every == 0
        if slow or now - self._read_at > _GAP_S:
            self._check_torque()
        self._read_at = now
        load = self._bus.sync_read("Present_Load", normalize=False)
        self._values[0] = [load[motor] for motor in self._motors]
        self._values[0] /= self._most
        self._ease(now)
        if slow:
            temperature = self._bus.sync_read("Present_Temperature", normalize=False)
            self._values[1] = [temperature[motor] for motor in self._motors]
        self._reads += 1
        return self._values

    def _check_torque(self) -> None:
        if self._off:
            return
        limp = self._motors
        for _ in range(_CONFIRMING):
            torque = self._bus.sync_read("Torque_Enable", normalize=False)
            limp = [motor for motor in limp if not torque[motor]]
            if not limp:
                return
        # As after the guard has cut it. A goal switches the torque of some firmware on again, so none is sent now.
        self._off = limp == self._motors
        raise UserError(
            f"the torque of {', '.join(limp)} went off by itself, as after a dip of the supply; check the power "
            "supply and the servo's cable, and run the command again"
        )

    @property
    def off(self) -> bool:
        """True if no servo has torque."""
        return self._off

    def set_torque(self, share: float) -> None:
        """Limit every servo to a share of the torque it may use, 0 for torque off.

        Raises ConnectionError if a servo does not answer.
        """
        if share <= 0:
            cut_torque(self._bus)
            for motor in self._motors:
                confirm_torque_off(self._bus, motor, num_retry=2)
            self._off = True
            return
        self._limit(share, self._eased)
        if self._off:
            self._bus.enable_torque(num_retry=2)
            self._off = False

    def restore(self) -> None:
        """Remove all limits of torque, for the next program that drives the servos."""
        self._limit(1.0, np.zeros_like(self._eased))

    def _ease(self, now: float) -> None:
        """Ease the servos that have pushed for long, and stop easing those that do not push any more."""
        load = self._values[0] * self._most
        over = np.abs(load) > self._overload
        self._pushing_since = np.where(over, np.minimum(self._pushing_since, now), np.inf)
        pushing = (self._eased != 0) & (load * self._eased > _RELEASED * self._bearable)
        tired = now - self._pushing_since >= self._patience
        eased = np.where(pushing, self._eased, np.where(tired, np.sign(load), 0.0))
        if not self._off and (eased != self._eased).any():
            self._limit(self._share, eased)

    def _limit(self, share: float, eased: np.ndarray) -> None:
        """Write the limits of torque."""
        limits = np.where(eased != 0, np.minimum(share * self._most, self._bearable), share * self._most)
        self._bus.sync_write(
            "Torque_Limit",
            {motor: round(limit) for motor, limit in zip(self._motors, limits, strict=True)},
            normalize=False,
        )
        self._share, self._eased = share, eased
