"""Environments in worker processes."""

import os

import numpy as np
import pytest

from envs import make_env
from envs.vector import make_vector_env
from envs.workers import count_workers, worker_pool
from tinyvla.errors import UserError

CONFIG = {"name": "metaworld", "cameras": ["corner2"], "image_size": 32, "render": "fast", "max_steps": 4}
TASKS = ["reach-v3", "drawer-open-v3"]


@pytest.fixture(scope="module")
def vector():
    vector = make_vector_env(CONFIG, TASKS)
    yield vector
    vector.close()


def test_each_environment_is_as_it_would_be_alone(vector):
    batch, _ = vector.reset(seed=[5, 6])
    actions = np.random.default_rng(0).uniform(-1, 1, (3, 2, 4)).astype(np.float32)
    batches = [batch] + [vector.step(action)[0] for action in actions]
    for i, task in enumerate(TASKS):
        env = make_env(CONFIG, task)
        alone = [env.reset(seed=5 + i)[0]] + [env.step(action[i])[0] for action in actions]
        for batch, observation in zip(batches, alone, strict=True):
            assert {key: batch[key][i] for key in batch}.keys() == observation.keys()
            assert batch["task"][i] == observation["task"]
            for key in ("observation.state", "observation.images.corner2"):
                np.testing.assert_array_equal(batch[key][i], observation[key])
        env.close()


def test_an_episode_that_is_cut_says_so_and_the_next_begins(vector):
    vector.reset(seed=0)
    for _ in range(4):
        _, _, terminated, truncated, info = vector.step(np.zeros((2, 4), np.float32))
    assert truncated.all()
    assert not terminated.any()
    assert not info["success"].any()
    _, _, _, truncated, _ = vector.step(np.zeros((2, 4), np.float32))
    assert not truncated.any()


def test_worker_processes_keep_to_one_core_each_and_this_one_does_not(monkeypatch):
    monkeypatch.setenv("LP_NUM_THREADS", "7")
    with worker_pool(1) as pool:
        assert pool.submit(os.getenv, "LP_NUM_THREADS").result() == "0"
    assert os.environ["LP_NUM_THREADS"] == "7"


def test_number_of_workers():
    assert count_workers("auto") == count_workers(None) >= 1
    assert count_workers(3) == count_workers("3") == 3
    for wrong in (0, -1, "many"):
        with pytest.raises(UserError, match=r"workers is .*; use auto or a number"):
            count_workers(wrong)


def die():
    os._exit(9)


def test_a_worker_that_dies_is_one_clear_error():
    with pytest.raises(UserError, match=r"a worker process died.*run the same command again"), worker_pool(1) as pool:
        pool.submit(die).result()
