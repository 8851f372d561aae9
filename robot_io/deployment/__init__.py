"""Running a policy on an arm: checks, a slow approach, the control loop, and the report of how it went."""

from ..person_gate import watch_for_people
from .checks import check_fit
from .command_sources import load_arm_runner
from .deployment import Deployment
from .episodes import Episode, Printer, real_episodes
from .judge import Judge
from .policy_server import ServerAccess
from .rate import limits_at_rate

__all__ = [
    "Deployment",
    "Episode",
    "Judge",
    "Printer",
    "ServerAccess",
    "check_fit",
    "limits_at_rate",
    "load_arm_runner",
    "real_episodes",
    "watch_for_people",
]
