"""Arms described once, for simulation, twin, calibration check and safety layer; see `tinyvla.arms.so101`."""

from .description import ArmDescription

__all__ = ["ArmDescription"]
