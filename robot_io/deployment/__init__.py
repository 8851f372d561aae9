"""Running a policy on an arm: checks, a slow approach, the control loop, and the report of how it went."""

from .arm_policy import load_runner
from .checks import cameras_of, check_fit
from .deployment import Deployment
from .episode import Episode, real_episodes
from .people import watch_people
from .watchers import Printer

__all__ = [
    "Deployment",
    "Episode",
    "Printer",
    "cameras_of",
    "check_fit",
    "load_runner",
    "real_episodes",
    "watch_people",
]
