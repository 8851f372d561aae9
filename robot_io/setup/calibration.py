"""Plausibility of a calibration: ranges against the arm's mechanical stops, joints against their names."""

import math
from collections.abc import Mapping
from typing import Any

from tinyvla.arms.so101 import SO101

from ..feetech.registers import RESOLUTION

STEPS_PER_DEGREE = RESOLUTION / 360  # the Dynamixels of a Koch have the same resolution
_TOO_FAR, _TOO_LITTLE = 1.15, 0.6  # shares of a joint's travel
_MIN_TRAVEL = 20  # degrees that any joint turns
_MOVED, _STILL = 8.0, 0.5  # degrees that count as moved by hand; share of them by which another joint may turn


def joint_travel(robot_name: str) -> dict[str, float]:
    """Degrees between the stops of every joint of an arm, by LeRobot's name for it; empty if they are not known."""
    if robot_name != SO101.robot_type:  # also that of the SO-100
        return {}
    closed, opened = SO101.gripper_range
    travel = [high - low for low, high in zip(SO101.low[:-1], SO101.high[:-1], strict=True)]
    return dict(zip(SO101.joints, [*travel, math.degrees(opened - closed)], strict=True))


def check_calibration(calibration: Mapping[str, Any], travel: Mapping[str, float]) -> list[str]:
    """Faults of a calibration, one line per joint.

    Args:
        calibration: LeRobot's MotorCalibration by joint; its ranges are encoder steps.
        travel: degrees between the stops, see `joint_travel`; for a joint without them only a smallest range is asked.
    """
    problems = []
    for joint, entry in calibration.items():
        low, high = entry.range_min, entry.range_max
        if not 0 <= low < high < RESOLUTION:
            problems.append(f"{joint}: the range {low} to {high} is empty; calibrate again")
            continue
        if high - low == RESOLUTION - 1:
            continue  # a joint that LeRobot lets turn all the way has no range to check
        turned, stops = (high - low) / STEPS_PER_DEGREE, travel.get(joint)
        if stops is not None and turned > _TOO_FAR * stops:
            problems.append(
                f"{joint}: a range of {turned:.0f} degrees is impossible, its stops are {stops:.0f} apart; was the arm "
                "in the middle of its range at the start, and is this cable its own? Calibrate again"
            )
        elif turned < max(_MIN_TRAVEL, _TOO_LITTLE * (stops or 0)):
            apart = f" of {stops:.0f}" if stops else ""
            problems.append(
                f"{joint}: it was moved through only {turned:.0f} degrees{apart}; calibrate again, to both stops"
            )
    return problems


def moved_joint(before: Mapping[str, float], now: Mapping[str, float]) -> str | None:
    """Joint that was moved by hand between two readings in encoder steps; None while that is not clear."""
    degrees = {joint: _degrees(before[joint], now[joint]) for joint in before}
    first, *rest = sorted(degrees, key=lambda joint: degrees[joint], reverse=True)
    if degrees[first] < _MOVED or (rest and degrees[rest[0]] > _STILL * degrees[first]):
        return None
    return first


def turned(before: Mapping[str, float], now: Mapping[str, float]) -> float:
    """Greatest turn of a joint in degrees between two readings in encoder steps."""
    return max(_degrees(before[joint], now[joint]) for joint in before)


def _degrees(before: float, now: float) -> float:
    half = RESOLUTION // 2  # a joint that turns all the way passes the encoder's end
    return abs((now - before + half) % RESOLUTION - half) / STEPS_PER_DEGREE
