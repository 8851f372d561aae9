"""Meta-World v3 (Sawyer arm, 50 tasks) with language instructions and camera observations."""

from .env import MetaWorldEnv
from .tasks import INSTRUCTIONS, SUITES, resolve_tasks

__all__ = ["INSTRUCTIONS", "SUITES", "MetaWorldEnv", "resolve_tasks"]
