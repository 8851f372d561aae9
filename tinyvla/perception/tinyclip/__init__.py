"""TinyCLIP (arXiv 2309.12314): small language-image models, distilled, and what a robot uses them for."""

from .detector import SuccessDetector
from .frontend import RELEASED, TinyCLIP
from .instructions import InstructionEncoder

__all__ = ["RELEASED", "InstructionEncoder", "SuccessDetector", "TinyCLIP"]
