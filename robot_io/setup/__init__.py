"""Setup of an arm: connected devices, ids of the servos, calibration and its check."""

from .assistant import Assistant
from .calibration import check_calibration, joint_travel
from .search import find_arms, find_cameras

__all__ = ["Assistant", "check_calibration", "find_arms", "find_cameras", "joint_travel"]
