"""TinyCLIP (arXiv 2309.12314): small language-image models, distilled, and what a robot uses them for."""

from .frontend import TinyCLIP
from .instructions import InstructionEncoder
from .released import RELEASED
from .success_detector import SuccessDetector

__all__ = ["RELEASED", "InstructionEncoder", "SuccessDetector", "TinyCLIP"]
