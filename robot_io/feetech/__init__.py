"""Feetech STS3215 servos: protocol, registers, loads and torque, and a guard that releases the arm."""

from .guard import Guard
from .servos import FeetechServos

__all__ = ["FeetechServos", "Guard"]
