"""Takeover from a policy by leader arm, gamepad or keyboard; the corrections can be trained on."""

from .gamepad import GamepadOperator
from .operators import KeyboardOperator, LeaderOperator, Takeover, connect_operator, decode_takeover

__all__ = [
    "GamepadOperator",
    "KeyboardOperator",
    "LeaderOperator",
    "Takeover",
    "connect_operator",
    "decode_takeover",
]
