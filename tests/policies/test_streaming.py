"""Training from a stream: the samples of the dataset, in LeRobot's own order, without a cache."""

import math
import shutil

import pytest
import torch
from test_training_loop import Tracker, as_dict, make_accelerator, read_metrics, train
from tiny import LENGTHS, run_config, tiny_policy, write_dataset

from policies.data import DatasetConfig, TrainingData, cache_frames, open_dataset, stream_batches
from policies.training import check_settings, decode_run
from tinyvla.errors import UserError

FRAMES = sum(LENGTHS)


@pytest.fixture(scope="module", params=[False, True], ids=["images", "videos"])
def root(request, tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("stream") / "tiny", video=request.param)


def source(root):
    return DatasetConfig(root=str(root), shuffle_buffer=30)


def config_of(root, policy="tinyvla"):
    changes = ["policy.waypoint_weight=0"] if policy == "tinyvla" else []  # a stream has no waypoints
    return tiny_policy(open_dataset(root), policy, *changes)[0].config


def test_a_pass_of_the_stream_has_every_sample_once_as_the_cache_has_it(root):
    dataset, config = open_dataset(root), config_of(root)
    data = TrainingData(dataset, config, cache_frames(dataset, 0))
    reference = data.batch(torch.arange(FRAMES))
    batch = stream_batches(source(root), config, FRAMES, seed=0)()
    assert batch.keys() == reference.keys()
    # Noise in the states tells every sample from every other.
    distances = torch.cdist(batch["observation.state"], reference["observation.state"])
    order = distances.argmin(1).tolist()
    assert sorted(order) == list(range(FRAMES)) != order
    for key, values in reference.items():
        if key == "task":
            assert batch[key] == [values[i] for i in order]
        elif values.dtype == torch.bool:
            assert torch.equal(batch[key], values[order])
        else:
            # Where a chunk reaches past its end LeRobot's stream repeats the last frame too.
            torch.testing.assert_close(batch[key], values[order], rtol=0, atol=1e-6)


def test_a_seed_is_a_stream(root):
    def states(seed):
        next_batch = stream_batches(source(root), config_of(root), 8, seed)
        return torch.cat([next_batch()["observation.state"] for _ in range(3)])

    assert torch.equal(states(1), states(1))
    assert not torch.equal(states(1), states(2))


def test_frames_of_a_later_video_file_are_its_own(tmp_path):
    """LeRobot 0.6.1 takes a frame's time in the dataset for that in its file."""
    from lerobot.datasets.aggregate import aggregate_datasets

    folders = [write_dataset(tmp_path / name, video=True) for name in ("a", "b")]
    root = tmp_path / "both"
    names = [f"local/{folder.name}" for folder in folders]
    aggregate_datasets(names, "local/both", roots=folders, aggr_root=root, video_files_size_in_mb=0.001)
    assert len(list(root.rglob("*.mp4"))) > 2
    dataset, config = open_dataset(root), config_of(root)
    data = TrainingData(dataset, config, cache_frames(dataset, 0))
    batch = stream_batches(source(root), config, 2 * FRAMES, seed=0)()
    key = "observation.images.left"
    reference = data.batch(torch.arange(2 * FRAMES))[key]
    sums = lambda images: sorted(images.double().sum((1, 2, 3)).tolist())  # noqa: E731
    assert sums(batch[key]) == pytest.approx(sums(reference))


def stream_config(root, run_dir, *settings, policy="tinyvla"):
    stream_settings = [
        "trainer.streaming=true",
        f"dataset.root={root}",
        "dataset.shuffle_buffer=30",
        f"run_dir={run_dir}",
    ]
    run_settings = ["trainer.steps=6", "trainer.save_every=3", "trainer.validate_every=0", "trainer.log_every=1"]
    return run_config(policy, *stream_settings, *run_settings, *settings)


def test_a_streamed_run_learns_stops_and_goes_on(root, tmp_path):
    def run(*settings):
        cfg = stream_config(root, tmp_path, *settings)
        accelerator = make_accelerator("cpu", False)
        with Tracker(tmp_path, as_dict(cfg)) as tracker:
            train(decode_run(as_dict(cfg)), None, accelerator, tracker)

    run("trainer.steps=3")
    run("trainer.steps=6")
    records = read_metrics(tmp_path / "metrics.jsonl")
    assert [record["step"] for record in records] == [1, 2, 3, 4, 5, 6]
    assert all(math.isfinite(record["train/loss"]) for record in records)
    assert not (root.parent / "frames" / root.name / "stream").exists()


@pytest.mark.parametrize("dataset_setting", ["dataset.repo_id=no/such", "dataset.root=no/where"])
def test_no_dataset_is_one_line(dataset_setting, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"no readable LeRobotDataset no/.*dataset.repo_id=user/name") as mistake:
        check_settings(decode_run(as_dict(run_config("tinyvla", "trainer.streaming=true", dataset_setting))))
    assert "\n" not in str(mistake.value)
    assert list(tmp_path.iterdir()) == []


def test_what_does_not_go_with_streaming(root, tmp_path):
    with pytest.raises(UserError, match=r"trainer.streaming=true needs a dataset"):
        check_settings(decode_run(as_dict(run_config("tinyvla", "trainer.streaming=true"))))
    with pytest.raises(UserError, match=r"set policy.n_obs_steps=1"):
        stream_batches(source(root), config_of(root, "diffusion"), 4, 0)


def test_a_stream_that_breaks_is_one_line(tmp_path):
    root = write_dataset(tmp_path / "tiny", video=True)
    config = config_of(root)
    next_batch = stream_batches(source(root), config, 4, 0)
    shutil.rmtree(root / "videos")
    with pytest.raises(UserError, match=r"cannot be streamed .*then resume the run") as mistake:
        next_batch()
    assert "\n" not in str(mistake.value)
