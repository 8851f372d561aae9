"""TinyVLA as LeRobot's configuration / modeling / processor triple. Importing it registers `policy.type=tinyvla`."""

from .configuration_tinyvla import TinyVLAConfig

__all__ = ["TinyVLAConfig"]
