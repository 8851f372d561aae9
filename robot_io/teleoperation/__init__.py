"""Recording of demonstrations: a person steers an arm through the control loop and its safety layer."""

from .announcer import Announcer
from .session import RecordingSession
from .teleoperation import Teleoperation, connect_leader, decode_teleop

__all__ = ["Announcer", "RecordingSession", "Teleoperation", "connect_leader", "decode_teleop"]
