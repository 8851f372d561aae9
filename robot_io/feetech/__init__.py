"""Feetech STS3215 servos as a host sees them: their protocol and registers, loads and torque, and a guard over them."""

from .guard import Guard
from .servos import FeetechServos

__all__ = ["FeetechServos", "Guard"]
