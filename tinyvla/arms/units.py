"""Units of joint positions: degrees, or LeRobot's -100 to 100 of each joint's calibrated range.

LeRobot's info.json does not say which of the two a recording has (`use_degrees` of the robot). For an SO-101 both look
alike, except that wrist_roll 50 of 100 is some 80 degrees. Readings of an encoder tell them apart: in degrees they are
multiples of half a step of 360/4095 degrees, otherwise of 200 over the steps of the calibrated range.
"""

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from ..untrusted import check_values, read_json_object
from .so101 import SO101

ROBOTS = ("so100", "so101", "so_follower", "koch")  # beginnings of robot types whose body joints have either unit
_JOINT, _GRIPPER = ".pos", "gripper"
_STEP = 360 / 4095  # degrees; LeRobot divides a turn by the highest reading of an encoder
_RANGES = np.arange(300, 4096)  # steps that a joint's calibrated range may have
MAX_RADIANS = 7  # a turn and a little
_TOLERANCE = 0.02  # of a step
_FEWEST = 12  # different readings of a joint whose steps count
_FEWEST_JOINTS = 3  # that moved
_MOST = 400  # of them that are looked at
_HIGHEST = 100.001  # LeRobot cuts -100 to 100 there
_NEAR_END = 95  # of 100; a joint that comes as near to both ends of its range has used all of it
_FULL_RANGES = 3  # joints that use their whole range in no task in degrees, where some reach beyond 100
_ENDS = 2  # ends at exactly 100, where LeRobot cuts; an arm that rests on its stops has two


class Units(StrEnum):
    """Units of a recording's body joints; grippers have 0 to 100 in all of them."""

    DEGREES = "degrees"
    HUNDREDS = "-100 to 100"
    EITHER = "degrees or -100 to 100"
    RADIANS = "radians"
    OTHER = "other"


def body_joints(names: Any) -> list[int]:
    """Places of an arm's joints among the names of a feature's numbers, without grippers; none if it has no joints."""
    if not isinstance(names, list | tuple) or not all(str(name).endswith(_JOINT) for name in names):
        return []
    return [i for i, name in enumerate(names) if _GRIPPER not in name]


def units_of(robot_type: str | None, names: Any, positions: np.ndarray) -> Units:
    """Units of a recording.

    Args:
        robot_type: as in info.json. The question arises for arms whose LeRobot class has `use_degrees`; without a type,
            for the joints of an SO-101.
        names: of the numbers of a position.
        positions: (N, len(names)), finite.
    """
    joints = body_joints(names)
    if not joints or not len(positions):
        return Units.OTHER
    if not (list(names) == SO101.feature_names if robot_type is None else robot_type.lower().startswith(ROBOTS)):
        return Units.OTHER
    body = positions[:, joints].astype(float)
    if np.abs(body).max() > _HIGHEST:
        return Units.DEGREES
    if np.abs(body).max() < MAX_RADIANS:
        return Units.RADIANS  # or an arm that hardly moved
    readings = [values for column in body.T if len(values := np.unique(column)) >= _FEWEST]
    steps = [_units_by_steps(values) for values in readings]
    # Readings of an encoder: then those of all joints are. A drawn motion has one or two joints that look like it.
    if len(steps) >= _FEWEST_JOINTS and None not in steps:
        # A joint whose range has 2275 steps fits both, and counts as degrees.
        return Units.HUNDREDS if Units.HUNDREDS in steps else Units.DEGREES
    return Units.HUNDREDS if has_range_ends(body.min(0), body.max(0)) else Units.EITHER


def has_range_ends(low: np.ndarray, high: np.ndarray) -> bool:
    """True for body joints that came to both ends of -100 to 100 and never beyond, as in no task in degrees.

    Args:
        low, high: (n,) lowest and highest position of each joint.
    """
    ends = np.abs(np.array([low, high], float))
    if not ends.size or ends.max() > _HIGHEST:
        return False
    whole = (np.asarray(low) < -_NEAR_END) & (np.asarray(high) > _NEAR_END)
    return bool(whole.sum() >= _FULL_RANGES or (ends > 200 - _HIGHEST).sum() >= _ENDS)


def _units_by_steps(readings: np.ndarray) -> Units | None:
    """Unit of a joint by the steps of its encoder, (N,) different positions; None where they show none."""
    readings = readings[np.linspace(0, len(readings) - 1, min(len(readings), _MOST)).astype(int)]
    if _are_whole(2 * readings / _STEP).all():
        return Units.DEGREES
    if _are_whole((readings[:, None] + 100) / 200 * _RANGES).all(0).any():
        return Units.HUNDREDS
    return None


def _are_whole(values: np.ndarray) -> np.ndarray:
    return np.abs(values - np.round(values)) < _TOLERANCE


def degrees_per_unit(calibration: Path, names: Sequence[str]) -> np.ndarray:
    """Factors (n,) that make degrees of -100 to 100; 1 for grippers.

    Args:
        calibration: LeRobot's file of the arm, with range_min and range_max per joint in steps of the encoder.
        names: of the n numbers of a position.

    Raises UserError unless the file has every joint, with a range that can be.
    """
    if not calibration.is_file():
        raise UserError(
            f"there is no calibration {calibration}; LeRobot keeps those of its arms in "
            "~/.cache/huggingface/lerobot/calibration/robots"
        )
    content = read_json_object(calibration, 1 << 20)
    check_values(content, calibration.name)
    factors = np.ones(len(names))
    for i in body_joints(names):
        joint = names[i].removesuffix(_JOINT)
        entry = content.get(joint)
        limits = entry if isinstance(entry, dict) else {}
        low, high = limits.get("range_min"), limits.get("range_max")
        if type(low) is not int or type(high) is not int or not high > low:
            raise UserError(
                f"{calibration} has no range_min below a range_max for {joint}; give the calibration of the arm that "
                "made the recordings"
            )
        factors[i] = (high - low) / 200 * _STEP * (-1 if limits.get("drive_mode") else 1)
    return factors
