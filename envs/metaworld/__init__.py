"""Meta-World v3 (Sawyer arm, 50 tasks) with language instructions and camera observations."""

STATE_NAMES = ["x", "y", "z", "gripper"]
ACTION_NAMES = ["dx", "dy", "dz", "gripper"]
STATE_DIM = ACTION_DIM = 4
CONTROL_HZ = 80
CAMERAS = (
    "corner", "corner2", "corner2_table", "corner3", "corner4", "topview", "topview_table", "behindGripper",
    "gripperPOV",
)  # fmt: skip
MAX_EPISODE_STEPS = 500  # Meta-World's own limit
