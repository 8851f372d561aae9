"""LeRobot's plug-in convention: its tools import this module, the distribution's namesake, when they start.

Importing it makes policy.type=tinyvla, env.type=tinyvla_metaworld and env.type=tinyvla_so101 known, and the step of a
pre-processor that fits images; neither model nor simulator is loaded.
"""

import envs.lerobot_env
import policies.image_size
import policies.tinyvla.configuration_tinyvla

__all__ = ["envs", "policies"]
