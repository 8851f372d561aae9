"""SO-101 arm at a table (MuJoCo) with language instructions and camera observations, in the real arm's units."""

# The arm's six motors by LeRobot's names, in its order and units: degrees from the middle of the joint's range, and for
# the gripper 0 (closed) to 100 (open).
JOINTS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")
LOW = (-110.0, -100.0, -96.83, -95.0, -157.21, 0.0)  # the joints' limits
HIGH = (110.0, 100.0, 96.83, 95.0, 162.79, 100.0)
FEATURE_NAMES = [f"{joint}.pos" for joint in JOINTS]
STATE_DIM = ACTION_DIM = len(JOINTS)
CONTROL_HZ = 30
MAX_EPISODE_STEPS = 600
ROBOT_TYPE = "so_follower"  # what LeRobot calls the arm in datasets
