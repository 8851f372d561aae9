"""The twin: an SO-101 that exists only in MuJoCo, behind a serial port that speaks the servos' protocol."""

from .client import TwinControl, start_twin
from .settings import TwinSettings
from .twin import Twin

__all__ = ["Twin", "TwinControl", "TwinSettings", "start_twin"]
