"""Loads, temperatures and torque of Feetech servos, which LeRobot's robots do not hand out."""

from typing import Any

import numpy as np

FULL = 1000  # load and torque registers count in thousandths of the greatest torque


class FeetechServos:
    """The servos of a connected LeRobot robot on a Feetech bus, such as an SO-101's `robot.bus`.

    For `ControlLoop(..., torque=servos.set_torque, servos=servos.read)`.
    """

    def __init__(self, bus: Any, every: int = 15) -> None:
        """every: temperatures, which change slowly, are read every so many times."""
        self._bus, self._every = bus, every
        self._motors = list(bus.motors)
        self._most = bus.sync_read("Max_Torque_Limit", normalize=False)  # LeRobot halves the gripper's
        self._reads = 0
        self._values = np.full((2, len(self._motors)), np.nan)
        self._off = False

    def read(self) -> np.ndarray:
        """Loads as shares of the greatest torque, and temperatures in °C: (2, joints), the same memory every time.

        Raises ConnectionError if a servo does not answer.
        """
        load = self._bus.sync_read("Present_Load", normalize=False)
        self._values[0] = [load[motor] / FULL for motor in self._motors]
        if self._reads % self._every == 0:
            temperature = self._bus.sync_read("Present_Temperature", normalize=False)
            self._values[1] = [temperature[motor] for motor in self._motors]
        self._reads += 1
        return self._values

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
