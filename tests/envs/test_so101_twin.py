"""The SO-101's scene simulated elsewhere: the same episodes as in the environment, judged the same."""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from envs import decode_env
from envs.seeds import episode_seed
from envs.so101.env import SO101Env
from envs.so101.twin import Judge, TwinScene, twin_episodes
from tinyvla.errors import UserError

SEED = episode_seed("evaluation", 0, 0)


class FakeTwin:
    """A twin with no arm in it: the scene, and the episodes that were begun."""

    def __init__(self):
        self.scene, self.resets = TwinScene(), []

    def reset(self, seed, move_arm=True):
        self.resets.append((seed, move_arm))
        self.scene.reset(seed, move_arm)

    def state(self):
        return {"qpos": self.scene.data.qpos.tolist(), "qvel": self.scene.data.qvel.tolist()}


@pytest.fixture(scope="module")
def env():
    env = SO101Env("reach", image_size=32)
    yield env
    env.close()


@pytest.fixture(scope="module")
def twin():
    twin = FakeTwin()
    yield twin
    twin.scene.close()


CFG = decode_env({"name": "so101", "tasks": ["reach"], "max_steps": 300})


def test_the_scene_is_laid_out_as_in_the_environment_and_the_arm_left_alone(env, twin):
    (episode,) = twin_episodes(CFG, 1, 0, 30.0, twin)
    observation, _ = env.reset(seed=SEED)
    assert episode.start_pose == pytest.approx(observation["observation.state"].tolist(), abs=1e-3)
    assert (episode.seed, episode.seconds, episode.instruction) == (SEED, 299.5 / 30, observation["task"])
    arm = twin.scene.simulation.state()
    episode.lay_out()
    assert twin.resets == [(SEED, False)]
    assert twin.scene.simulation.state() == pytest.approx(arm)
    assert twin.scene.simulation.cube == pytest.approx(env.simulation.cube)
    assert twin.scene.simulation.disc == pytest.approx(env.simulation.disc)
    # With the arm where the episode starts from, a policy sees the same.
    twin.scene.data.qpos[:] = env.data.qpos
    import mujoco

    mujoco.mj_forward(twin.scene.model, twin.scene.data)
    image = twin.scene.draw(twin.scene.data, "front", 32, 32)
    assert np.abs(image.astype(int) - observation["observation.images.front"]).max() <= 2


def test_the_episodes_are_those_of_evaluate(twin, monkeypatch):
    """Task by task the seeds of scene and policy that evaluate.py would play."""
    from envs import evaluation

    played = []
    runner = SimpleNamespace(check=lambda *_: None)
    env = SimpleNamespace(observation_space=None, action_space=None, close=lambda: None)
    monkeypatch.setattr(evaluation, "make_env", lambda cfg, task: env)
    monkeypatch.setattr(evaluation, "load_policy", lambda *_: runner)
    monkeypatch.setattr(evaluation, "roll_out", lambda env, runner, seed, *_: played.append(seed))
    monkeypatch.setattr(evaluation, "_WORKER", {})
    cfg, policy = replace(CFG, tasks=["reach", "push"]), SimpleNamespace(opened=lambda: nullcontext(Path("none")))
    setting = evaluation.Setting(Path("none"), cfg, "evaluation", 3, "cpu", {})
    for job in evaluation.evaluation_jobs(cfg.tasks, 20):
        evaluation._run_job(setting, policy, job, film=False)
    assert [episode.seed for episode in twin_episodes(cfg, 20, 3, 30.0, twin)] == played


def test_the_judge_says_what_the_environment_says(env, twin):
    (episode,) = twin_episodes(CFG, 1, 0, 30.0, twin)
    env.reset(seed=SEED)
    episode.lay_out()
    verdicts = []
    for _ in range(300):
        _, success, truncated, _ = env.apply(env.expert_action())
        twin.scene.data.qpos[:], twin.scene.data.qvel[:] = env.data.qpos, env.data.qvel
        verdicts.append((success, episode.success()))
        if success or truncated:
            break
    assert verdicts[-1] == (True, True)
    assert all(ours == theirs for ours, theirs in verdicts)


def test_what_a_judge_of_two_tasks_sees_is_not_mixed_up():
    judge = Judge("pick-lift")
    first, second = judge.begin(SEED), judge.begin(SEED + 1)
    assert np.abs(first - second).max() > 0
    assert judge.begin(SEED) == pytest.approx(first)


def test_mistakes(twin):
    with pytest.raises(UserError, match="no camera 'side'; use front, top, wrist"):
        twin.scene.draw(twin.scene.data, "side", 32, 32)
    with pytest.raises(UserError, match="episodes is 0"):
        twin_episodes(CFG, 0, 0, 30.0, twin)
    with pytest.raises(UserError, match="unknown SO-101 task"):
        twin_episodes(replace(CFG, tasks=["reech"]), 1, 0, 30.0, twin)


def test_cameras_of_any_shape_see_the_same_middle(twin):
    scene = twin.scene
    square = scene.draw(scene.data, "front", 48, 48).astype(int)
    wide = scene.draw(scene.data, "front", 48, 64).astype(int)
    assert wide.shape == (48, 64, 3)
    assert np.abs(wide[:, 8:-8] - square).mean() < 2  # the field of view is that of the height
    assert wide[:, :8].std() > 1
