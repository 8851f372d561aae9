"""Torque cut of servos over an unreliable serial line."""

import time
from typing import Any

BROADCAST = 0xFE  # id of all servos, for Feetech and Dynamixel
TIMES, GAP_S = 30, 0.0005  # packets of one cut: all are lost once in 10,000 cuts if one byte in ten is lost


def cut_torque(bus: Any) -> None:
    """Switch off the torque of all servos on LeRobot's bus at once, repeatedly, without waiting for an answer.

    A short packet to all servos passes a bad line far sooner than one per servo. And LeRobot's `disable_torque` also
    unlocks the servos' EEPROM, where garbage on the line could then change their calibration.
    """
    from lerobot.motors.motors_bus import get_address  # takes seconds, which guard and twin do not need

    model = next(iter(bus.motors.values())).model
    address, _ = get_address(bus.model_ctrl_table, model, "Torque_Enable")
    for _ in range(TIMES):
        bus.packet_handler.write1ByteTxOnly(bus.port_handler, BROADCAST, address, 0)
        time.sleep(GAP_S)


def confirm_torque_off(bus: Any, motor: str, num_retry: int = 0) -> None:
    """Have one servo confirm that its torque is off, by what is read back where the bus can (`feetech.bus`).

    Raises ConnectionError if it does not answer or its torque stays on, and what LeRobot's bus raises.
    """
    if hasattr(bus, "confirm_torque_off"):
        bus.confirm_torque_off(motor, num_retry)
    else:
        bus.write("Torque_Enable", motor, 0, normalize=False, num_retry=num_retry)
