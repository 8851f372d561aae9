"""People who take over from a policy: by a leader arm, a gamepad or the keyboard; their corrections can be trained on."""

from .gamepad import ByGamepad
from .keys import Keys
from .people import ByKeyboard, ByLeader, make_leader, take_over

__all__ = ["ByGamepad", "ByKeyboard", "ByLeader", "Keys", "make_leader", "take_over"]
