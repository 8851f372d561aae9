"""Description of an arm: names, order, units, limits and poses of its joints, and its MuJoCo model."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class ArmDescription:
    """An arm with n joints, the last of which is the gripper.

    Positions are in LeRobot's units: degrees from the middle of a joint's range (the model's zero), and for the
    gripper 0 (closed) to 100 (open).

    Args:
        name: of the arm in configurations, such as `safety.model`.
        robot_type: LeRobot's name of the follower arm, as datasets have it.
        joints: (n,) LeRobot's names, in the order of state and action; joints and actuators of the MJCF have them too.
        low: (n,) lower limits of the joints.
        high: (n,) upper limits.
        gripper_range: radians of the MJCF's gripper joint when it is closed and when it is open.
        rest_pose: (n,) folded pose in which the arm stays without torque; inside the limits of `configs/safety`.
        full_turn_joints: joints whose calibration by LeRobot covers the encoder's whole turn instead of a range.
        servo_ids: (n,) ids that LeRobot gives the servos.
        links: bodies of the MJCF from the fixed base to the moving jaw.
        mjcf: returns the path of the MJCF; the package that holds it is imported by the first call.
    """

    name: str
    robot_type: str
    joints: tuple[str, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    gripper_range: tuple[float, float]
    rest_pose: tuple[float, ...]
    full_turn_joints: tuple[str, ...]
    servo_ids: tuple[int, ...]
    links: tuple[str, ...]
    mjcf: Callable[[], Path]

    @property
    def feature_names(self) -> list[str]:
        """Names of the numbers of state and action in LeRobot's datasets, such as "gripper.pos"."""
        return [f"{joint}.pos" for joint in self.joints]

    def from_radians(self, angles: np.ndarray) -> np.ndarray:
        """Convert joint angles of the MJCF, (n,) in radians, to LeRobot's units."""
        closed, opened = self.gripper_range
        values = np.degrees(angles)
        values[-1] = 100 * (angles[-1] - closed) / (opened - closed)
        return values

    def to_radians(self, values: np.ndarray) -> np.ndarray:
        """Convert joint positions in LeRobot's units, (n,), to angles of the MJCF in radians."""
        closed, opened = self.gripper_range
        angles = np.radians(values)
        angles[-1] = closed + values[-1] / 100 * (opened - closed)
        return angles
