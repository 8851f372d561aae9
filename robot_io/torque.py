"""Cutting the torque of servos over a line that may be bad."""

import time
from typing import Any

BROADCAST = 0xFE  # Feetech's and Dynamixel's
TIMES, GAP_S = 30, 0.0005  # of one cut: all are lost in one of 10,000 where one byte in ten is


def cut_torque(bus: Any) -> None:
    """Tell all servos on LeRobot's bus at once to let go, time and again, without waiting for an answer.

    A short packet to everybody gets through a bad line far sooner than one for each servo. And LeRobot's own
    `disable_torque` unlocks the servos' EEPROM as well, where garbage on the line could then change their calibration.
    """
    from lerobot.motors.motors_bus import get_address  # seconds, which a guard and a twin are spared

    model = next(iter(bus.motors.values())).model
    address, _ = get_address(bus.model_ctrl_table, model, "Torque_Enable")
    for _ in range(TIMES):
        bus.packet_handler.write1ByteTxOnly(bus.port_handler, BROADCAST, address, 0)
        time.sleep(GAP_S)
