"""SO-101 arm at a table (MuJoCo) with language instructions and camera observations, in the real arm's units."""

from tinyvla.arms.so101 import SO101

FEATURE_NAMES = SO101.feature_names
LOW, HIGH, ROBOT_TYPE = SO101.low, SO101.high, SO101.robot_type
STATE_DIM = ACTION_DIM = len(SO101.joints)
CONTROL_HZ = 30
CAMERAS = ("front", "top", "wrist")
MAX_EPISODE_STEPS = 600
