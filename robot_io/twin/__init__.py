"""Twin: an SO-101 simulated in MuJoCo behind a serial port that speaks the protocol of its servos."""

from .client import TwinControl, start_twin
from .settings import TwinSettings
from .twin import Twin

__all__ = ["Twin", "TwinControl", "TwinSettings", "start_twin"]
