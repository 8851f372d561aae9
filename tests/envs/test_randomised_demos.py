"""Randomised demonstrations: each its own, the same again after an interruption, and plain ones as ever."""

import json

import numpy as np
import pytest

from configs.composing import as_dict, load_config
from envs import decode_env, resolve_tasks
from envs.demos import ensure_dataset
from envs.demos.collect import collect, fingerprint, spec_of, store_folder
from envs.demos.dataset import PROVENANCE
from envs.demos.episode import attempt_path, read_demo
from envs.metaworld.tasks import INSTRUCTIONS, paraphrases
from envs.shifts import with_randomisation

TASK = "handle-press-v3"
PLAIN = decode_env({
    "name": "metaworld", "tasks": [TASK], "cameras": ["corner2"], "image_size": 32, "render": "fast",
    "max_steps": 500, "noise": {"share": 0.5, "std": 0.8},
})  # fmt: skip
RANDOMISED = with_randomisation(PLAIN, ["lighting", "instruction", "object_colour", "sensor_noise"])


def test_plain_demonstrations_keep_their_name():
    """Else everybody's datasets would be collected again."""
    env_cfg = decode_env(as_dict(load_config("train", ["env.cameras=[corner2,topview]"]).env))
    tasks = resolve_tasks(env_cfg)
    assert fingerprint([spec_of(with_randomisation(env_cfg, []), 0), tasks, 60]) == "1aef8419"
    assert fingerprint([spec_of(with_randomisation(env_cfg, ["lighting"]), 0), tasks, 60]) != "1aef8419"


def stored(data_dir):
    folder = store_folder(RANDOMISED, 0, data_dir) / TASK
    return [read_demo(attempt_path(folder, attempt, True)) for attempt in range(2)]


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """A data folder in which the first of two demonstrations was collected before the run was stopped."""
    from tiny import SerialPool

    data_dir = tmp_path_factory.mktemp("randomised")
    with pytest.MonkeyPatch.context() as patch:
        for module in ("envs.demos.collect", "envs.demos.dataset"):
            patch.setattr(f"{module}.worker_pool", SerialPool)
        collect(RANDOMISED, [TASK], 1, 0, data_dir, 1)
        root = ensure_dataset(RANDOMISED, [TASK], 2, 0, data_dir, 1)
    return data_dir, root


def test_an_interrupted_collection_comes_to_the_same(interrupted, tmp_path, in_process):
    collect(RANDOMISED, [TASK], 2, 0, tmp_path, 1)
    for ours, theirs in zip(stored(tmp_path), stored(interrupted[0]), strict=True):
        assert ours.instruction == theirs.instruction
        for field in ("state", "action"):
            np.testing.assert_array_equal(getattr(ours, field), getattr(theirs, field))
        np.testing.assert_array_equal(ours.images["corner2"], theirs.images["corner2"])


def test_every_demonstration_has_its_own_words_light_and_colours(interrupted):
    demos = stored(interrupted[0])
    assert {demo.instruction for demo in demos} <= {INSTRUCTIONS[TASK], *paraphrases(TASK, None)}
    first, second = (demo.images["corner2"][0].astype(int) for demo in demos)
    assert np.abs(first - second).mean() > 1


def test_the_dataset_records_what_was_randomised(interrupted):
    from lerobot.datasets import LeRobotDataset

    data_dir, root = interrupted
    provenance = json.loads((root / PROVENANCE).read_text())
    assert provenance["spec"]["randomise"] == ["instruction", "object_colour", "lighting", "sensor_noise"]
    assert store_folder(PLAIN, 0, data_dir) != store_folder(RANDOMISED, 0, data_dir)
    dataset = LeRobotDataset("local/demos", root=root, video_backend="pyav")
    instructions = {dataset.meta.episodes[i]["tasks"][0] for i in range(2)}
    assert instructions == {demo.instruction for demo in stored(data_dir)}
