"""Kinds of arms and leaders: properties that LeRobot's calibration of each one has."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from tinyvla.arms.so101 import SO101

_TOO_LITTLE, _TOO_FAR = 0.6, 1.2  # shares of the travel between a joint's stops


class Travel(NamedTuple):
    """Degrees through which a person moves a joint in a calibration, from stop to stop: least and most."""

    least: float = 20.0
    most: float = 340.0  # a joint that passes the end of its encoder seems to turn all the way


@dataclass(frozen=True)
class ArmKind:
    """A kind of arm or leader whose calibration can be checked.

    Args:
        travel: by joint; a joint without an entry has the widest one.
        full_turn_joints: joints to which LeRobot gives the encoder's whole turn instead of a range; None: not known.
        greatest_offset: of `homing_offset` either way, in steps; None: not limited.
        operating_mode: value of that register in which LeRobot calibrates; None: LeRobot's own calibration is used.
        inverted_joints: joints whose servo LeRobot has count backwards.
    """

    travel: Mapping[str, Travel] = field(default_factory=dict)
    full_turn_joints: tuple[str, ...] | None = None
    greatest_offset: int | None = None
    operating_mode: int | None = None
    inverted_joints: tuple[str, ...] = ()


def _between_stops(degrees: Mapping[str, float]) -> dict[str, Travel]:
    return {joint: Travel(_TOO_LITTLE * angle, _TOO_FAR * angle) for joint, angle in degrees.items()}


def _so_arm(gripper: float) -> ArmKind:
    """SO-100 or SO-101, a follower or a leader: alike but for the gripper's degrees."""
    model = {
        joint: high - low for joint, low, high in zip(SO101.joints[:-1], SO101.low[:-1], SO101.high[:-1], strict=True)
    }
    return ArmKind(
        travel=_between_stops(model | {"gripper": gripper}),
        full_turn_joints=SO101.full_turn_joints,
        greatest_offset=2047,  # 11 bits and a sign
        operating_mode=0,  # position
    )


# Stops of a Koch v1.1 are not published. Its MuJoCo model (mujoco_menagerie, low_cost_robot_arm) moves the joints
# through so many degrees, inside the stops.
_KOCH_MODEL = {"shoulder_lift": 124.0, "elbow_flex": 173.0, "wrist_flex": 229.0, "gripper": 93.5}


def _koch(inverted_joints: tuple[str, ...] = ()) -> ArmKind:
    return ArmKind(
        travel={joint: Travel(least=_TOO_LITTLE * degrees) for joint, degrees in _KOCH_MODEL.items()},
        full_turn_joints=("shoulder_pan", "wrist_roll"),
        operating_mode=4,  # extended position
        inverted_joints=inverted_joints,
    )


# By LeRobot's name of the class. Grippers of SO followers open 124 to 140 degrees in public calibrations, the model
# 110; handles of SO leaders turn 92 to 120.
_KINDS = {
    "so_follower": _so_arm(gripper=130.0),
    "so_leader": _so_arm(gripper=110.0),
    "koch_follower": _koch(),
    "koch_leader": _koch(inverted_joints=("elbow_flex",)),
}
MODEL_GRIPPER_DEGREES = math.degrees(SO101.gripper_range[1] - SO101.gripper_range[0])


def arm_kind(name: str) -> ArmKind:
    """Kind of an arm or a leader by LeRobot's name of its class; one without travel for others."""
    return _KINDS.get(name, ArmKind())
