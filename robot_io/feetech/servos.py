"""Loads, temperatures and torque of Feetech servos, which LeRobot's robots do not hand out."""

import time
from typing import Any

import numpy as np

from tinyvla.errors import UserError

FULL = 1000  # load and torque registers count in thousandths of the greatest torque
_GAP_S = 0.1  # seconds without a reading in which a servo may have started anew


class FeetechServos:
    """The servos of a connected LeRobot robot on a Feetech bus, such as an SO-101's `robot.bus`.

    For `ControlLoop(..., torque=servos.set_torque, servos=servos.read)`.
    """

    def __init__(self, bus: Any, every: int = 15, off: bool = False) -> None:
        """every: temperatures, which change slowly, and whether torque is on are read every so many times. off: torque
        is off as it should be."""
        self._bus, self._every = bus, every
        self._motors = list(bus.motors)
        self._most = bus.sync_read("Max_Torque_Limit", normalize=False)  # LeRobot halves the gripper's
        self._reads = 0
        self._values = np.full((2, len(self._motors)), np.nan)
        self._off = off
        self._read_at = -np.inf

    def read(self) -> np.ndarray:
        """Loads as shares of the greatest torque, and temperatures in °C: (2, joints), the same memory every time.

        Raises ConnectionError if a servo does not answer, and UserError if one has lost its torque: after a dip of its
        supply a servo starts anew, and limp.
        """
        now = time.monotonic()
        slow = self._reads % self._every == 0
        if slow or now - self._read_at > _GAP_S:
            self._check_torque()
        self._read_at = now
        load = self._bus.sync_read("Present_Load", normalize=False)
        self._values[0] = [load[motor] / FULL for motor in self._motors]
        if slow:
            temperature = self._bus.sync_read("Present_Temperature", normalize=False)
            self._values[1] = [temperature[motor] for motor in self._motors]
        self._reads += 1
        return self._values

    def _check_torque(self) -> None:
        if self._off:
            return
        on = self._bus.sync_read("Torque_Enable", normalize=False)
        if limp := [motor for motor in self._motors if not on[motor]]:
            raise UserError(
                f"the torque of {', '.join(limp)} went off by itself, as after a dip of the supply; check the power "
                "supply and the servo's cable, and run the command again"
            )

    def set_torque(self, share: float) -> None:
        """Limit every servo to a share of the torque it may use, 0 for torque off.

        Raises ConnectionError if a servo does not answer.
        """
        if share <= 0:
            self._bus.disable_torque(num_retry=2)
            self._off = True
            return
        self._bus.sync_write(
            "Torque_Limit", {motor: round(share * self._most[motor]) for motor in self._motors}, normalize=False
        )
        if self._off:
            self._bus.enable_torque(num_retry=2)
            self._off = False
