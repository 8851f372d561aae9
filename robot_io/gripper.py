"""Opening of a gripper in degrees, which differs between arms: 100 is the end of the range in their calibration."""

from typing import Any

from lerobot.robots import Robot

from tinyvla.errors import UserError

GRIPPER = "gripper"


def gripper_degrees(arm: Any) -> float | None:
    """Degrees between the gripper's 0 and 100 by an arm's calibration; None if it has none, or no gripper.

    arm: a robot or leader of LeRobot.
    """
    entry = (getattr(arm, "calibration", None) or {}).get(GRIPPER)
    bus: Any = getattr(arm, "bus", None)
    if entry is None or GRIPPER not in getattr(bus, "motors", {}):
        return None
    return (entry.range_max - entry.range_min) * 360 / bus.model_resolution_table[bus.motors[GRIPPER].model]


def set_gripper_opening(robot: Robot, degrees: float) -> None:
    """Have 100 mean this opening of the gripper, in readings and in goals, whatever its calibration.

    A policy that was trained in simulation, or on another arm, then sees and commands the openings that it knows. An
    opening that is wider reads as 100. Without a calibration nothing changes: such an arm does not connect.

    Raises UserError if the gripper does not open that far.
    """
    most = gripper_degrees(robot)
    if most is None:
        return
    if not 0 < degrees <= most:
        raise UserError(
            f"robot.gripper_degrees={degrees:g} is more than this gripper opens, {most:.0f} degrees by its calibration "
            f"{robot.calibration_fpath}; give less, or calibrate it again"
        )
    bus: Any = getattr(robot, "bus", None)
    number, share = bus.motors[GRIPPER].id, degrees / most
    normalize, unnormalize = bus._normalize, bus._unnormalize  # every reading and goal of the bus passes them

    def normalize_narrow(values: dict[int, int]) -> dict[int, float]:
        normalized = normalize(values)
        if number in normalized:
            normalized[number] = min(100.0, normalized[number] / share)
        return normalized

    def unnormalize_narrow(values: dict[int, float]) -> dict[int, int]:
        if number in values:
            values = {**values, number: min(100.0, max(0.0, values[number])) * share}
        return unnormalize(values)

    bus._normalize, bus._unnormalize = normalize_narrow, unnormalize_narrow
