"""Batches: those that LeRobot would give, from frames decoded once, in an order that a resumed run can repeat."""

import resource
import shutil
import time
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from lerobot.datasets import LeRobotDataset
from lerobot.datasets.factory import resolve_delta_timestamps
from tiny import FPS, LENGTHS, SETTINGS, SIZE, TASKS, run_config, tiny_policy, write_dataset

from configs.composing import as_dict
from policies import decode_policy_config, load_checkpoint
from policies.data import TrainingData, cache_frames, open_dataset
from policies.data import frames as reading
from policies.tinyvla.waypoints import WAYPOINTS
from policies.training import decode_run, train
from tinyvla.backbones import resize
from tinyvla.errors import UserError
from tinyvla.training import Tracker, make_accelerator, sample_order


@pytest.fixture(scope="module")
def video_root(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("videos") / "tiny", video=True)


@pytest.fixture
def copy(dataset_root, tmp_path):
    """A dataset of images that a test may damage."""
    return shutil.copytree(dataset_root, tmp_path / "data" / "tiny")


@pytest.fixture
def video_copy(video_root, tmp_path):
    return shutil.copytree(video_root, tmp_path / "data" / "tiny")


@pytest.mark.parametrize("name", SETTINGS)
def test_batches_are_those_of_lerobots_dataset(name, dataset, dataset_root):
    config = tiny_policy(dataset, name)[0].config
    data = TrainingData(dataset, config, cache_frames(dataset, 0))
    reference = open_dataset(dataset_root, resolve_delta_timestamps(config, dataset.meta))
    samples = torch.arange(0, len(data), 5)
    batch = data.batch(samples)
    items = [reference[frame] for frame in data.eligible[samples].tolist()]
    assert (batch.pop(WAYPOINTS, None) is not None) == (name == "tinyvla")
    assert batch.pop("task") == [item["task"] for item in items]
    unused = {*dataset.meta.camera_keys} - {*config.image_features}  # one policy takes one camera
    known = {key for key in items[0] if key.startswith(("observation.", "action"))}
    assert set(batch) == {key for key in known if key.removesuffix("_is_pad") not in unused}
    for key, values in batch.items():
        torch.testing.assert_close(values, torch.stack([item[key] for item in items]), rtol=0, atol=1e-6)
    assert batch["action_is_pad"].any()


def test_every_frame_but_the_dropped_ones_is_a_sample(dataset):
    def eligible(name):
        config = tiny_policy(dataset, name)[0].config
        return TrainingData(dataset, config, cache_frames(dataset, 0)).eligible.tolist()

    assert eligible("tinyvla") == list(range(sum(LENGTHS)))
    starts = np.cumsum([0, *LENGTHS[:-1]])
    assert eligible("diffusion") == [
        s + i for s, length in zip(starts, LENGTHS, strict=True) for i in range(length - 7)
    ]


def test_demonstrations_shorter_than_a_chunk_are_refused(dataset):
    config = tiny_policy(dataset, "diffusion", "policy.drop_n_last_frames=40")[0].config
    with pytest.raises(UserError, match=r"no demonstration is longer.*policy.chunk_size"):
        TrainingData(dataset, config, cache_frames(dataset, 0))


@pytest.mark.parametrize("kind", ["copy", "video_copy"])
@pytest.mark.parametrize("workers", [0, 2])
def test_cached_frames_are_the_decoded_ones(kind, workers, request, monkeypatch):
    monkeypatch.setattr(reading, "_SPAN", 7)  # runs that do not divide the episodes
    stored = open_dataset(request.getfixturevalue(kind))
    frames = cache_frames(stored, workers)
    assert set(frames) == {"observation.images.left", "observation.images.right"}
    for key, cached in frames.items():
        assert (cached.shape, cached.dtype) == ((sum(LENGTHS), 3, 32, 32), np.uint8)
        for index in range(0, len(stored), 3):
            decoded = stored[index][key].mul(255).round().byte().numpy()
            np.testing.assert_array_equal(cached[index], decoded)
    folder = stored.root.parent / "frames"
    assert [path.name for path in folder.glob("[!.]*")] == ["tiny"]


def test_larger_frames_are_cached_at_the_size_that_the_policy_sees(video_copy):
    stored = open_dataset(video_copy)
    frames = cache_frames(stored, 0, largest=(16, 24))
    whole = cache_frames(stored, 0, largest=(64, 64))  # never enlarged
    for key, cached in frames.items():
        assert cached.shape == (sum(LENGTHS), 3, 16, 24)
        resized = resize(torch.from_numpy(whole[key][::9]).float(), (16, 24))
        assert (torch.from_numpy(cached[::9]).float() - resized).abs().max() <= 1
    assert {path.name for path in (video_copy.parent / "frames").glob("[!.]*")} == {"tiny", "tiny-16x24"}


def train_two_steps(root, run_dir, backbone=None):
    """Folder of the policy of a run, with the tests' backbone or another."""
    run_dir.mkdir()
    cfg = run_config("tinyvla", f"run_dir={run_dir}", "trainer.steps=2", "trainer.validate_every=0")
    cfg.policy.backbone = backbone or cfg.policy.backbone
    with Tracker(run_dir, as_dict(cfg)) as tracker:
        return train(decode_run(as_dict(cfg)), root, make_accelerator("cpu", False), tracker, lambda _: {})


def test_states_and_actions_of_one_number_train(tmp_path):
    number = {"dtype": "float32", "shape": (1,), "names": ["x"]}
    image = {"dtype": "image", "shape": (SIZE, SIZE, 3), "names": ["height", "width", "channels"]}
    features = {"observation.images.front": image, "observation.state": number, "action": number}
    dataset = LeRobotDataset.create("local/one", FPS, features, root=tmp_path / "data/one")
    for step in range(12):
        values = {"observation.state": np.float32([step]), "action": np.float32([step + 1])}
        dataset.add_frame(values | {"observation.images.front": np.zeros((SIZE, SIZE, 3), np.uint8), "task": "move"})
    dataset.save_episode()
    dataset.finalize()
    folder = train_two_steps(dataset.root, tmp_path / "run")
    assert load_checkpoint(folder, "cpu")[0].config.robot_state_feature.shape == (1,)


@pytest.mark.parametrize("backbone", ["nano", "film"])
def test_a_run_keeps_no_more_pixels_than_its_policy_sees(backbone, copy, tmp_path):
    train_two_steps(copy, tmp_path / "run", backbone={"type": backbone, "image_size": 16})
    assert [path.name for path in (copy.parent / "frames").glob("[!.]*")] == ["tiny-16x16"]


def test_the_cache_is_made_once_and_again_for_another_dataset(copy, monkeypatch):
    first = cache_frames(open_dataset(copy), 0)
    with monkeypatch.context() as patch:
        patch.setattr(reading, "_decode", lambda *_: pytest.fail("decoded again"))
        again = cache_frames(open_dataset(copy), 0)
    np.testing.assert_array_equal(first["observation.images.left"], again["observation.images.left"])
    # The dataset is collected again under the same name.
    shutil.rmtree(copy)
    write_dataset(copy, video=True)
    other = cache_frames(open_dataset(copy), 0)
    assert not np.array_equal(first["observation.images.left"], other["observation.images.left"])


def test_a_cache_cut_short_is_made_again(copy, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(reading.json, "dumps", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            cache_frames(open_dataset(copy), 0)
    frames = cache_frames(open_dataset(copy), 0)
    assert frames["observation.images.left"].any()


@pytest.mark.parametrize("name", ["stamp.json", "observation.images.left.npy"])
def test_a_cached_file_that_is_a_link_elsewhere_is_made_again(name, copy, tmp_path):
    cache_frames(open_dataset(copy), 0)
    file = copy.parent / "frames/tiny" / name
    file.rename(tmp_path / name)
    file.symlink_to(tmp_path / name)
    cache_frames(open_dataset(copy), 0)
    assert not file.is_symlink()


@contextmanager
def files_limited_to(size):
    """No file may grow beyond `size` bytes: writing fails as it does on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_while_decoding_is_one_line_and_leaves_nothing(copy):
    stored = open_dataset(copy)
    with files_limited_to(100_000), pytest.raises(UserError, match=r"cannot be decoded .*free disk space") as mistake:
        cache_frames(stored, 0)
    assert "\n" not in str(mistake.value)
    assert list((copy.parent / "frames").glob("[!.]*")) == []


def truncate(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@pytest.mark.parametrize(
    "damage",
    [
        lambda root: truncate(next(root.glob("data/*/*.parquet"))),
        lambda root: next(root.glob("data/*/*.parquet")).unlink(),
        lambda root: truncate(next(root.glob("meta/episodes/*/*.parquet"))),
        lambda root: truncate(root / "meta/info.json"),
        lambda root: (root / "meta/info.json").unlink(),
        lambda root: (root / "meta/tasks.parquet").unlink(),
        lambda root: shutil.rmtree(root),
    ],
)
def test_a_damaged_dataset_is_one_line(damage, copy):
    damage(copy)
    with pytest.raises(UserError, match=r"complete (copy|one)") as mistake:
        open_dataset(copy)
    assert "\n" not in str(mistake.value)


@pytest.mark.parametrize("damage", [truncate, lambda file: file.unlink()])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_video_is_one_line(damage, workers, video_copy):
    stored = open_dataset(video_copy)
    damage(next(video_copy.glob("videos/*/*/*.mp4")))
    with pytest.raises(UserError, match=r"cannot be decoded|cannot be read") as mistake:
        cache_frames(stored, workers)
    assert "\n" not in str(mistake.value)


def test_a_decoder_that_hangs_is_one_line(video_copy, monkeypatch):
    monkeypatch.setattr(reading, "_PATIENCE", 1)
    monkeypatch.setattr(reading._Spans, "__getitem__", lambda spans, index: time.sleep(60))
    with pytest.raises(UserError, match=r"cannot be decoded.*timed out"):
        cache_frames(open_dataset(video_copy), workers=1)


def test_tasks_are_instructions(dataset):
    config = decode_policy_config(as_dict(run_config("tinyvla", "policy.waypoint_weight=0").policy), "cpu")
    data = TrainingData(dataset, config, {})
    assert [data.tasks[0], data.tasks[LENGTHS[0]], data.tasks[-1]] == [TASKS[0], TASKS[1], TASKS[1]]


class TestSampleOrder:
    def test_every_epoch_has_every_sample_once(self):
        order = sample_order(10, seed=3)
        epochs = [order(10 * epoch, 10).tolist() for epoch in range(4)]
        assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
        assert len({tuple(epoch) for epoch in epochs}) == 4

    def test_positions_alone_decide(self):
        whole = sample_order(10, seed=3)(0, 57).tolist()
        order = sample_order(10, seed=3)
        assert [number for start in range(0, 57, 3) for number in order(start, 3).tolist()] == whole
        resumed = sample_order(10, seed=3)
        assert resumed(44, 9).tolist() == whole[44:53]
        assert resumed(5, 30).tolist() == whole[5:35]  # over several epochs, and back

    def test_seeds_give_different_orders(self):
        assert sample_order(50, seed=0)(0, 50).tolist() != sample_order(50, seed=1)(0, 50).tolist()
