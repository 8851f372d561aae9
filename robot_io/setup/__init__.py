"""Setting an arm up: what is plugged in, ids of the servos, calibration, and whether that can be right."""

from .assistant import Assistant
from .calibration import check_calibration, joint_travel
from .search import find_arms, find_cameras

__all__ = ["Assistant", "check_calibration", "find_arms", "find_cameras", "joint_travel"]
