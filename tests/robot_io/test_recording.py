"""Recordings: whole and readable whatever ends the run."""

import io
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
from fake_arm import JOINTS

from robot_io.recording import Recorder
from robot_io.recording.writer import EPISODE_ENDS, RecordingPlan, write
from tinyvla.errors import UserError

SIZE = 32


def frame(number):
    pose = np.full(6, number, np.float32)
    return {
        "observation.images.front": np.full((SIZE, SIZE, 3), 8 * number, np.uint8),
        "observation.state": pose,
        "action": pose + 1,
        "policy_action": pose + 2,
        "intervention": np.array([number == 2]),
        "task": "pick up the cube",
    }


def stream_of(root, *messages, cut=0):
    content = b"".join(
        map(pickle.dumps, [RecordingPlan(root, JOINTS, {"front": (SIZE, SIZE)}, 30, "so_follower"), *messages])
    )
    return io.BytesIO(content[: len(content) - cut])


def opened(root):
    from policies.data import open_dataset

    return open_dataset(root)


@pytest.mark.parametrize("cut", [0, 100])
def test_a_recording_that_was_cut_off_can_be_read_and_trained_on(cut, tmp_path):
    root = tmp_path / "recording"
    messages = [*map(frame, range(5)), EPISODE_ENDS, EPISODE_ENDS, *map(frame, range(4))]
    figures = write(stream_of(root, *messages, cut=cut))
    assert figures == {"episodes": 2, "frames": 8 if cut else 9}
    dataset = opened(root)
    assert len(dataset) == figures["frames"]
    item = dataset[2]
    assert item["action"].tolist() == [3.0] * 6
    assert item["policy_action"].tolist() == [4.0] * 6
    assert (bool(item["intervention"]), bool(dataset[3]["intervention"])) == (True, False)
    assert item["task"] == "pick up the cube"
    assert float(item["observation.images.front"].mean()) * 255 == pytest.approx(16, abs=2)
    assert dataset.meta.features["action"]["names"] == [f"{joint}.pos" for joint in JOINTS]
    # Only `action` is one to a policy that is trained on it.
    from lerobot.utils.feature_utils import dataset_to_policy_features

    assert set(dataset_to_policy_features(dataset.meta.features)) == {
        "observation.images.front",
        "observation.state",
        "action",
    }


def test_a_recording_without_a_frame_is_none(tmp_path):
    root = tmp_path / "recording"
    assert write(stream_of(root, EPISODE_ENDS)) == {"episodes": 0, "frames": 0}
    assert not root.exists()


def test_the_recorders_process_writes_what_the_loop_saw(tmp_path):
    root = tmp_path / "run" / "recording"
    with Recorder(root, JOINTS, {"front": (SIZE, SIZE)}, 30, "so_follower") as recorder:
        recorder.begin(SimpleNamespace(instruction="push"))
        for number in range(5):
            pose = np.full(6, float(number))
            tick = {"position": pose, "sent": pose + 1, "policy_pose": pose + 2, "intervention": False}
            image = np.zeros((SIZE, SIZE, 3), np.uint8)
            recorder.observe(SimpleNamespace(observation={"front": image}, **tick))
    # No `end`: as when an error ended the run.
    assert recorder.report() == {"recording": {"folder": str(root), "lost": 0, "episodes": 1, "frames": 5}}
    assert opened(root)[4]["action"].tolist() == [5.0] * 6


def test_a_recording_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot be recorded: .*Error: .*; choose another run_dir, or record=false"):
        Recorder(tmp_path / "file" / "below", JOINTS, {}, 30, "so_follower")
    (tmp_path / "there").mkdir()
    with pytest.raises(UserError, match="exists already; choose another run_dir"):
        Recorder(tmp_path / "there", JOINTS, {}, 30, "so_follower")
