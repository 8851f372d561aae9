"""Corrections in recordings: they count as often as asked, and the policy's own frames do not."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lerobot.datasets import LeRobotDataset

from policies.data import TrainingData, open_dataset
from policies.data.corrections import count_samples
from policies.data.settings import DatasetConfig
from tinyvla.errors import UserError

POSE = {"dtype": "float32", "shape": (2,), "names": ["a", "b"]}
FLAG = {"dtype": "bool", "shape": (1,), "names": None}


def write_dataset(root, episodes, flagged=True):
    """Dataset with an episode per text: "p" a frame of the policy, "c" a correction."""
    features = {"observation.state": POSE, "action": POSE} | ({"intervention": FLAG} if flagged else {})
    dataset = LeRobotDataset.create("local/x", 30, features, root=root, use_videos=False)
    for episode in episodes:
        for number, kind in enumerate(episode):
            pose = np.full(2, number, np.float32)
            flag = {"intervention": np.array([kind == "c"])} if flagged else {}
            dataset.add_frame({"observation.state": pose, "action": pose, "task": "push"} | flag)
        dataset.save_episode()
    dataset.finalize()
    return open_dataset(root)


def last_of(dataset):
    ends = torch.as_tensor(dataset.meta.episodes["dataset_to_index"])
    lengths = ends - torch.as_tensor(dataset.meta.episodes["dataset_from_index"])
    return ends.repeat_interleave(lengths) - 1


def counted(dataset, **options):
    samples = count_samples(dataset, last_of(dataset), **options)
    return None if samples is None else (samples.counts.tolist(), samples.last.tolist())


def test_only_corrections_of_a_policys_run_are_used(tmp_path):
    dataset = write_dataset(tmp_path / "run", ["ppccpc", "ppp", "ccc"])
    counts, last = counted(dataset, weight=3)
    assert counts == [0, 0, 3, 3, 0, 3] + [0] * 3 + [1] * 3  # a person steered all of the last one: a demonstration
    assert [last[frame] for frame in (2, 3, 5, 9, 11)] == [3, 3, 5, 11, 11]
    counts, last = counted(dataset, weight=2, policy_frames=True)
    assert counts == [1, 1, 2, 2, 1, 2] + [1] * 3 + [1] * 3
    assert last == last_of(dataset).tolist()
    samples = count_samples(dataset, last_of(dataset), 3)
    assert samples.summary == (
        "3 frames of demonstrations; 3 of corrections, each counted 3 times; 6 of a policy, left out"
    )


@pytest.mark.parametrize(("episodes", "flagged"), [(["ppp", "pp"], True), (["ppp"], False), (["ccc"], True)])
def test_a_dataset_without_corrections_is_used_as_before(episodes, flagged, tmp_path):
    dataset = write_dataset(tmp_path / "data", episodes, flagged)
    assert counted(dataset, weight=5) is None


def test_batches_hold_corrections_as_often_as_they_count(tmp_path):
    dataset = write_dataset(tmp_path / "run", ["ppccp"])
    config = SimpleNamespace(
        image_features={}, input_features={"observation.state": None}, output_features={"action": None},
        action_delta_indices=[0, 1, 2], observation_delta_indices=None,
    )  # fmt: skip
    data = TrainingData(dataset, config, {}, correction_weight=2)
    assert len(data) == 4
    batch = data.batch(torch.arange(4))
    assert batch["observation.state"][:, 0].tolist() == [2, 2, 3, 3]
    assert batch["action"][0, :, 0].tolist() == [2, 3, 3]  # not the policy's action after the correction
    assert batch["action_is_pad"].tolist() == [[False, False, True]] * 2 + [[False, True, True]] * 2
    plain = TrainingData(write_dataset(tmp_path / "demos", ["ppccp"], flagged=False), config, {}, correction_weight=2)
    assert (len(plain), plain.summary) == (5, "")


def test_a_dataset_that_shows_several_keeps_their_corrections(tmp_path):
    demos = write_dataset(tmp_path / "demos", ["ppp", "pp"], flagged=False)
    run = write_dataset(tmp_path / "run", ["pp", "pcp"])
    both = write_dataset(tmp_path / "both", ["pp", "pcp", "ppp"], flagged=False)
    origin = [{"root": str(run.root), "episodes": [0, 1]}, {"root": str(demos.root), "episodes": [0]}]
    file = tmp_path / "both/meta/made_from.json"
    file.write_text(json.dumps(origin))
    counts, last = counted(both, weight=4)
    assert counts == [0, 0, 0, 4, 0, 1, 1, 1]
    assert (last[3], last[5]) == (3, 7)
    file.write_text(json.dumps([{"root": str(run.root), "episodes": [1, 0]}, origin[1]]))
    with pytest.raises(UserError, match="has changed since"):
        counted(both)
    file.write_text(json.dumps([{"root": str(tmp_path / "gone"), "episodes": [0, 1]}]))
    with pytest.raises(UserError, match="which is not there"):
        counted(both)


def test_weights_that_make_no_sense():
    with pytest.raises(ValueError, match="correction_weight"):
        DatasetConfig(correction_weight=0)
