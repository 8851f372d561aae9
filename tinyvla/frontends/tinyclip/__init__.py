"""TinyCLIP (arXiv 2309.12314): small language-image models, distilled, and what a robot uses them for."""

from .frontend import RELEASED, TinyCLIP
from .instructions import InstructionEncoder
from .success_detector import SuccessDetector

__all__ = ["RELEASED", "InstructionEncoder", "SuccessDetector", "TinyCLIP"]
