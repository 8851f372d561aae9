"""People who take over from a policy: by a leader arm or by the keyboard; their corrections can be trained on."""

from .keys import Keys
from .people import ByKeyboard, ByLeader, make_leader, take_over

__all__ = ["ByKeyboard", "ByLeader", "Keys", "make_leader", "take_over"]
