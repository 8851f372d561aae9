"""LeRobot's plug-in convention: its tools import this module, the distribution's namesake, when they start.

Importing it makes policy.type=tinyvla and env.type=tinyvla_metaworld known; neither model nor simulator is loaded.
"""

import envs.lerobot_env
import policies.tinyvla.configuration_tinyvla

__all__ = ["envs", "policies"]
