"""Episodes that begin where those of a recording begin."""

import numpy as np
import pytest
from lerobot.datasets import LeRobotDataset

from configs.composing import as_dict, load_config
from robot_io.deployment import Episode
from robot_io.deployment.start_poses import begin_at
from robot_io.safety import SafetyLimits
from tinyvla.arms.so101 import SO101
from tinyvla.errors import UserError

POSES = [[0.0, -48, 30, 85, 3, 45], [10.0, -40, 20, 80, -3, 20]]
NAMES = [f"{joint}.pos" for joint in SO101.joints]
EPISODES = [Episode("go", 1.0, seed=seed) for seed in range(5)]


@pytest.fixture(scope="module")
def limits():
    return SafetyLimits.decode(as_dict(load_config("deploy", ["checkpoint=none"]).safety))


def write_recording(root, poses=POSES, names=NAMES):
    vector = {"dtype": "float32", "shape": (len(names),), "names": list(names)}
    dataset = LeRobotDataset.create(f"local/{root.name}", 30, {"observation.state": vector, "action": vector}, root)
    for pose in poses:
        for step in range(3):
            values = np.array(pose, np.float32) + step
            dataset.add_frame({"observation.state": values, "action": values, "task": "go"})
        dataset.save_episode()
    dataset.finalize()
    return str(root)


def test_each_episode_begins_at_the_next_recorded_one_in_turn(limits, tmp_path):
    episodes = begin_at(write_recording(tmp_path / "recording"), EPISODES, limits)
    assert [episode.seed for episode in episodes] == [0, 1, 2, 3, 4]
    for index, episode in enumerate(episodes):
        np.testing.assert_allclose(episode.start_pose, POSES[index % 2], atol=1e-4)


def test_joints_in_another_order_are_sorted(limits, tmp_path):
    root = write_recording(tmp_path / "recording", [pose[::-1] for pose in POSES], NAMES[::-1])
    np.testing.assert_allclose(begin_at(root, EPISODES[:1], limits)[0].start_pose, POSES[0], atol=1e-4)


def test_a_pose_is_that_of_every_episode_and_none_changes_nothing(limits):
    assert [episode.start_pose for episode in begin_at(POSES[0], EPISODES[:2], limits)] == [POSES[0]] * 2
    assert begin_at(None, EPISODES, limits) == EPISODES


@pytest.mark.parametrize(
    ("pose", "joint"), [([0.0, -48, 30, 85, 190, 45], "wrist_roll at 190.0"), ([0, -48, 30, 85, 0, -60], "gripper at")]
)
def test_a_pose_in_other_units_is_one_line(pose, joint, limits, tmp_path):
    root = write_recording(tmp_path / "recording", [POSES[0], pose])
    with pytest.raises(UserError, match=f"episode 1 begins with {joint}.*outside of .* give a recording in degrees"):
        begin_at(root, EPISODES, limits)


def test_a_recording_in_hundreds_is_one_line(limits, tmp_path):
    with pytest.raises(UserError, match="is not in degrees"):
        begin_at(write_recording(tmp_path / "hundreds", [[-100.0] * 5 + [0], [98.0] * 5 + [50]]), EPISODES, limits)


def test_a_recording_of_another_arm_or_none_is_one_line(limits, tmp_path):
    with pytest.raises(UserError, match=r"is a recording of x, y, and the arm has shoulder_pan, .*give a recording of"):
        begin_at(write_recording(tmp_path / "other", [[0.0, 1]], ["x", "y"]), EPISODES, limits)
    with pytest.raises(UserError, match="is not a LeRobotDataset"):
        begin_at(str(tmp_path / "missing"), EPISODES, limits)
