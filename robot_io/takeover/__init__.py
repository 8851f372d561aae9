"""People who take over from a policy: by leader arm, gamepad or keyboard; their corrections can be trained on."""

from .gamepad import GamepadOperator
from .operators import KeyboardOperator, LeaderOperator, connect_operator, make_teleoperator

__all__ = ["GamepadOperator", "KeyboardOperator", "LeaderOperator", "connect_operator", "make_teleoperator"]
