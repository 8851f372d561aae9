"""People who take over from a policy: by leader arm, gamepad or keyboard; their corrections can be trained on."""

from .gamepad import ByGamepad
from .keys import Keys
from .people import ByKeyboard, ByLeader, make_leader, take_over

__all__ = ["ByGamepad", "ByKeyboard", "ByLeader", "Keys", "make_leader", "take_over"]
