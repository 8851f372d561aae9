"""The twin: an SO-101 that exists only in MuJoCo, behind a serial port that speaks the servos' protocol."""

from .control import TwinControl
from .settings import TwinSettings
from .start import start_twin
from .twin import Twin

__all__ = ["Twin", "TwinControl", "TwinSettings", "start_twin"]
