"""Demonstrations: what is recorded, what becomes of a run that is disturbed, and what LeRobot reads of it."""

import atexit
import errno
import functools
import json
import os
import shutil
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
from lerobot.datasets.video_utils import StreamingVideoEncoder

from envs import decode_env, make_env
from envs.demos import collect as collecting
from envs.demos import dataset as writing
from envs.demos import ensure_dataset
from envs.demos.collect import collect, store_folder
from envs.demos.dataset import PROVENANCE, check_dataset
from envs.demos.episode import (
    attempt_path,
    encode_demo,
    read_demo,
    write_attempt,
)
from envs.metaworld.tasks import INSTRUCTIONS
from envs.registry import embodiment_of
from envs.seeds import episode_seed
from policies.data import open_dataset
from tinyvla.errors import UserError
from tinyvla.files import alone_in

TASK, EPISODES = "handle-press-v3", 3
CONFIG = {
    "name": "metaworld", "tasks": [TASK], "cameras": ["corner2"], "image_size": 32, "render": "fast",
    "max_steps": 500, "noise": {"share": 0.5, "std": 0.8},
}  # fmt: skip
IMAGE = "observation.images.corner2"


def make(data_dir, episodes=EPISODES, **changes):
    return ensure_dataset(decode_env(CONFIG | changes), [TASK], episodes, 0, data_dir, workers=1)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """Data folder of an undisturbed run in this process; tests never write to it."""
    from tiny import SerialPool  # not at the top: worker processes import this module, and would all that `tiny` does

    data_dir = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        for module in (collecting, writing):
            patch.setattr(module, "worker_pool", SerialPool)
        make(data_dir)
    return data_dir


@pytest.fixture(scope="module")
def root(data_dir):
    return make(data_dir)


@pytest.fixture(scope="module")
def demos(data_dir):
    folder = store_folder(decode_env(CONFIG), 0, data_dir) / TASK
    return [read_demo(attempt_path(folder, attempt, True)) for attempt in range(EPISODES)]


@pytest.fixture(scope="module")
def env():
    env = make_env(decode_env(CONFIG), TASK)
    yield env
    env.close()


@pytest.fixture
def attempts_only(data_dir, tmp_path):
    """A data folder with the attempts of the undisturbed run and no dataset yet."""
    shutil.copytree(data_dir / "attempts", tmp_path / "data/attempts")
    return tmp_path / "data"


def content(root):
    """Every number of a dataset, and its videos byte for byte."""
    tables = {path.relative_to(root): pq.read_table(path).to_pydict() for path in root.rglob("*.parquet")}
    return tables | {path.relative_to(root): path.read_bytes() for path in root.rglob("*.mp4")}


def leftovers(data_dir):
    return [path for path in data_dir.rglob("*") if ".tmp" in path.name]


def test_lerobot_reads_the_dataset(root, demos):
    from lerobot.datasets import LeRobotDataset

    dataset = LeRobotDataset("local/demos", root=root, video_backend="pyav")
    assert dataset.meta.total_episodes == EPISODES
    assert dataset.fps == 80
    assert len(dataset) == sum(len(demo.action) for demo in demos)
    assert {len(demo.action) for demo in demos} == set(np.bincount(dataset.hf_dataset["episode_index"]).tolist())
    frame = dataset[len(dataset) - 1]
    assert frame["task"] == INSTRUCTIONS[TASK]
    assert frame[IMAGE].shape == (3, 32, 32)
    np.testing.assert_array_equal(frame["observation.state"], demos[-1].state[-1])
    np.testing.assert_array_equal(frame["action"], demos[-1].action[-1])
    assert dataset.meta.stats["action"]["max"].max() <= 1

    decoded = np.stack([dataset[i][IMAGE].permute(1, 2, 0).numpy() for i in range(0, len(dataset), 5)]) * 255
    recorded = np.concatenate([demo.images["corner2"] for demo in demos])[::5]
    assert np.abs(decoded - recorded).max() < 2.5  # but for the rounding of colours

    pixels = np.concatenate([demo.images["corner2"] for demo in demos]).reshape(-1, 3) / 255
    stats = {name: value.flatten() for name, value in dataset.meta.stats[IMAGE].items()}
    np.testing.assert_allclose(stats["mean"], pixels.mean(0), atol=0.02)
    np.testing.assert_allclose(stats["std"], pixels.std(0), atol=0.02)


def test_images_and_states_are_what_the_environment_shows_before_the_action(env, demos):
    """Attempt 0 carries no noise: its recorded actions, played again, go through its recorded states to success."""
    demo = demos[0]
    observation, _ = env.reset(seed=episode_seed("train", 0, 0))
    for step, action in enumerate(demo.action):
        np.testing.assert_array_equal(observation["observation.state"], demo.state[step])
        np.testing.assert_array_equal(observation[IMAGE], demo.images["corner2"][step])
        observation, _, success, _, info = env.step(action)
        np.testing.assert_array_equal(info["action"], action)
    assert success


def test_the_dataset_says_where_it_comes_from(root):
    provenance = json.loads((root / PROVENANCE).read_text())
    assert [entry["attempt"] for entry in provenance["episodes"]] == [0, 1, 2]
    assert [entry["noisy"] for entry in provenance["episodes"]] == [False, True, False]
    assert provenance["tasks"] == {TASK: {"episodes": 3, "failures_discarded": 0}}
    assert provenance["spec"]["noise"] == CONFIG["noise"]


def test_failures_are_discarded_and_counted(demos, tmp_path):
    """With fewer steps allowed than the first attempt needs, it fails and a later one takes its place."""
    lengths = [len(demo.action) for demo in demos]
    assert lengths[0] > min(lengths)
    config = CONFIG | {"max_steps": min(lengths)}
    attempts = collect(decode_env(config), [TASK], 1, 0, tmp_path, 1)[TASK]
    winner = lengths.index(min(lengths))
    assert attempts.successes == [winner]
    assert attempts.failures == list(range(winner))
    assert sorted(path.name for path in attempts.folder.iterdir()) == [
        *(f"{attempt:05d}.failed" for attempt in range(winner)), f"{winner:05d}.npz",
    ]  # fmt: skip
    again = collect(decode_env(config), [TASK], 1, 0, tmp_path, 1)[TASK]
    assert (again.successes, again.failures) == (attempts.successes, attempts.failures)


def test_a_task_that_the_expert_cannot_do_is_given_up(tmp_path):
    with pytest.raises(UserError, match=r"solved handle-press-v3 in only 0 of 20 attempts; raise env.max_steps"):
        make(tmp_path, episodes=20, max_steps=2)
    assert not leftovers(tmp_path)


def test_giving_up_does_not_depend_on_where_a_run_was_stopped(tmp_path):
    """4 of the first 20 succeed: too few, however many of the later ones did before the run was stopped."""
    for tried in (20, 40):
        folder = tmp_path / str(tried)
        folder.mkdir()
        for attempt in range(tried):
            attempt_path(folder, attempt, attempt % 5 == 0 or attempt >= 20).touch()
        with pytest.raises(UserError, match="only 4 of 20"):
            collecting.TaskAttempts(TASK, folder, 30).missing()
        assert collecting.TaskAttempts(TASK, folder, 4).missing() == []


def test_what_is_there_is_used_again(monkeypatch, data_dir, root):
    monkeypatch.setattr(collecting, "worker_pool", None)
    assert make(data_dir) == root
    fewer = collect(decode_env(CONFIG), [TASK], 2, 0, data_dir, 1)
    assert fewer[TASK].successes == [0, 1]


def test_other_settings_make_another_dataset(data_dir):
    stores = {
        store_folder(decode_env(CONFIG | changes), seed, data_dir)
        for changes in ({}, {"cameras": ["topview"]}, {"noise": {"share": 0.0, "std": 0.8}})
        for seed in (0, 1)
    }
    assert len(stores) == 6
    assert (
        store_folder(decode_env(CONFIG | {"tasks": ["other"]}), 0, data_dir) in stores
    )  # tasks do not shape an attempt


def test_several_shards_make_the_same_dataset(monkeypatch, attempts_only, root, in_process):
    monkeypatch.setattr(writing, "_SHARD_EPISODES", 2)
    (attempts_only / f".{root.name}.tmp").mkdir()  # left by a run that was killed while it wrote
    other = make(attempts_only)
    assert other.name == root.name
    for name in ("observation.state", "action", "timestamp", "episode_index", "index", "task_index"):
        ours, theirs = (pq.read_table(path / "data")[name].to_pylist() for path in (root, other))
        assert ours == theirs, name
    check_dataset(other)
    assert not leftovers(attempts_only)


SCRIPT = """
import json, sys
from pathlib import Path
from envs import decode_env
from envs.demos import ensure_dataset

if __name__ == "__main__":
    config, tasks, episodes, data_dir = json.loads(sys.argv[1])
    ensure_dataset(decode_env(config), tasks, episodes, 0, Path(data_dir), workers=1)
"""


def test_a_run_that_was_killed_goes_on_to_the_same_dataset(tmp_path, root, in_process):
    script = tmp_path / "collect_some.py"
    script.write_text(SCRIPT)
    data_dir = tmp_path / "data"
    command = [sys.executable, str(script), json.dumps([CONFIG, [TASK], EPISODES, str(data_dir)])]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    while not (stored := list(data_dir.rglob("*.npz"))) and process.poll() is None:
        time.sleep(0.005)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    assert 1 <= len(stored) < EPISODES
    assert psutil.wait_procs(workers, timeout=30)[1] == []  # workers end with their parent
    assert not list(data_dir.glob("metaworld-*"))
    assert content(make(data_dir)) == content(root)


def test_a_damaged_attempt_is_thrown_away_and_collected_again(attempts_only, root, in_process):
    stored = next(attempts_only.rglob("00001.npz"))
    stored.write_bytes(stored.read_bytes()[:-200])
    assert content(make(attempts_only)) == content(root)


@pytest.mark.parametrize("pattern", ["*.parquet", "*.mp4", "info.json", "collection.json"])
def test_a_truncated_dataset_is_one_clear_error(pattern, data_dir, root, tmp_path):
    copy = Path(shutil.copytree(root, tmp_path / "data" / root.name))
    shutil.copytree(data_dir / "attempts", tmp_path / "data/attempts")
    damaged = next(copy.rglob(pattern))
    damaged.write_bytes(damaged.read_bytes()[: damaged.stat().st_size // 2])
    with pytest.raises(UserError, match=r"is damaged \(.*\); delete that folder and run the same command") as error:
        make(tmp_path / "data")
    assert str(copy) in str(error.value)
    damaged.unlink()
    with pytest.raises(UserError, match="is damaged"):
        check_dataset(copy)


@pytest.fixture
def full_disk(monkeypatch):
    """A disk that has room for the settings of the attempts and for one attempt; returns what frees it."""
    sync, stored = os.fsync, []

    def fill(file):
        if len(stored) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if not stat.S_ISDIR(os.fstat(file).st_mode):
            stored.append(file)
        sync(file)

    monkeypatch.setattr(os, "fsync", fill)
    return lambda: monkeypatch.setattr(os, "fsync", sync)


def test_a_disk_that_is_full_while_collecting_is_one_clear_error_and_loses_nothing(
    full_disk, tmp_path, root, in_process
):
    with pytest.raises(UserError, match="the disk is full; free some space and run the same command again"):
        make(tmp_path)
    assert len(list(tmp_path.rglob("*.npz"))) == 1
    assert not leftovers(tmp_path)
    assert not list(tmp_path.glob("metaworld-*"))
    full_disk()
    assert content(make(tmp_path)) == content(root)


def half_a_shard(error, shard, *_):
    """In a worker process: `write_shard` that leaves a file and fails, and writes on when its process ends."""
    atexit.register(half_a_shard, None, shard, None)
    shard.mkdir(parents=True, exist_ok=True)
    (shard / "half.mp4").write_bytes(b"half")
    if error:
        raise error


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RuntimeError("Encoder thread for corner2 crashed: [Errno 28] No space left on device: 'file.mp4'"),
    ],
)
def test_a_disk_that_is_full_while_writing_the_dataset_likewise(monkeypatch, attempts_only, error):
    monkeypatch.setattr(writing, "write_shard", functools.partial(half_a_shard, error))
    with pytest.raises(UserError, match="the disk is full"):
        make(attempts_only)
    assert not leftovers(attempts_only)
    assert not list(attempts_only.glob("metaworld-*"))
    assert len(list(attempts_only.rglob("*.npz"))) == EPISODES


def test_a_shard_whose_encoder_was_held_up_is_written_again(monkeypatch, tmp_path, attempts_only):
    finish, held_up = StreamingVideoEncoder.finish_episode, []

    def finish_late(encoder):
        videos = finish(encoder)
        if not held_up:
            held_up.append(True)
            return {key: (path, None) for key, (path, _) in videos.items()}
        return videos

    monkeypatch.setattr(StreamingVideoEncoder, "finish_episode", finish_late)
    files = sorted(attempts_only.rglob("*.npz"))
    frames = writing.write_shard(tmp_path / "shard", files, embodiment_of("metaworld"))
    assert held_up
    dataset = open_dataset(tmp_path / "shard")
    assert (dataset.meta.total_episodes, dataset.meta.total_frames) == (len(files), frames)


def test_a_disk_with_too_little_room_is_refused_before_anything_is_written(monkeypatch, tmp_path):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UserError, match=r"needs about .* GB but .* GB free; free some space, or point data_dir"):
        make(tmp_path)
    assert not list(tmp_path.glob("[!.]*"))


def test_an_attempt_is_stored_whole_or_not_at_all(monkeypatch, tmp_path, demos):
    write_attempt(tmp_path, 0, encode_demo(demos[0]))
    write_attempt(tmp_path, 1, None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000.npz", "00001.failed"]
    stored = read_demo(tmp_path / "00000.npz")
    np.testing.assert_array_equal(stored.images["corner2"], demos[0].images["corner2"])
    assert stored.instruction == INSTRUCTIONS[TASK]

    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_attempt(tmp_path, 2, encode_demo(demos[0]))
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("episodes", [0, -1])
def test_no_episodes_is_refused(tmp_path, episodes):
    with pytest.raises(UserError, match="collect at least 1"):
        make(tmp_path, episodes=episodes)


def test_two_runs_do_not_collect_into_one_folder_at_once(tmp_path):
    events = []

    def second():
        with alone_in(tmp_path):
            events.append("second")

    with alone_in(tmp_path):
        other = threading.Thread(target=second)
        other.start()
        time.sleep(0.2)
        events.append("first")
    other.join(timeout=10)
    assert events == ["first", "second"]
