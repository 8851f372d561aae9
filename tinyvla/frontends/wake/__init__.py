"""Person detection (Wake Vision, arXiv 2405.00892).

wake = load_frontend("outputs/<run>")
wake.probability(image)  # uint8 (H, W, 3) -> 0 to 1
"""

from .frontend import Wake
from .gate import GateLimits, PersonGate, Reason

__all__ = ["GateLimits", "PersonGate", "Reason", "Wake"]
