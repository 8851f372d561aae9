"""One demonstration: what is recorded of an attempt, with noise and without, and on which seeds."""

import numpy as np
import pytest

from envs import decode_env, make_env
from envs.demos import episode
from envs.demos.collect import fingerprint, spec_of
from envs.demos.episode import collect_attempt, is_noisy, record_demo
from envs.seeds import EPISODES_PER_SEED, SEEDS, episode_seed
from tinyvla.errors import UserError

TASK = "handle-press-v3"
CONFIG = {
    "name": "metaworld", "tasks": [TASK], "cameras": ["corner2"], "image_size": 32, "render": "fast",
    "max_steps": 500, "noise": {"share": 0.5, "std": 0.8},
}  # fmt: skip


@pytest.fixture(scope="module")
def env():
    env = make_env(decode_env(CONFIG), TASK)
    yield env
    env.close()


class Spy:
    """An environment that remembers what was asked of its expert and what was applied."""

    def __init__(self, env):
        self.env, self.expert_actions, self.applied, self.seeds = env, [], [], []

    def __getattr__(self, name):
        return getattr(self.env, name)

    def reset(self, seed):
        self.seeds.append(seed)
        return self.env.reset(seed=seed)

    def expert_action(self):
        self.expert_actions.append(self.env.expert_action())
        return self.expert_actions[-1]

    def apply(self, action):
        outcome = self.env.apply(action)
        self.applied.append(outcome[-1]["action"])
        return outcome


def test_noise_is_applied_and_what_the_expert_wanted_is_recorded(env):
    spy = Spy(env)
    demo = record_demo(spy, 0, 0.8, np.random.default_rng(0))
    assert np.abs(spy.expert_actions).max() > 1  # else clipping would not be tested
    np.testing.assert_array_equal(demo.action, np.clip(spy.expert_actions, -1, 1))
    applied = np.array(spy.applied[: len(demo.action)])
    noisy = (demo.action != applied).any(axis=1)
    assert 0.05 < noisy.mean() < 0.95
    assert (demo.action[:, 3] == applied[:, 3]).all()  # never the gripper

    calm = Spy(env)
    demo = record_demo(calm, 0, 0.0, np.random.default_rng(0))
    np.testing.assert_array_equal(demo.action, calm.applied[: len(demo.action)])


def test_images_and_states_are_those_of_the_episode_with_noise(env):
    spy = Spy(env)
    demo = record_demo(spy, 0, 0.8, np.random.default_rng(0))
    observation, _ = env.reset(seed=0)
    for step, action in enumerate(spy.applied[: len(demo.action)]):
        np.testing.assert_array_equal(demo.state[step], observation["observation.state"])
        np.testing.assert_array_equal(demo.images["corner2"][step], observation["observation.images.corner2"])
        _, success, _, _ = env.apply(action)
        observation = env.observe()
    assert success
    assert np.ptp(demo.images["corner2"].astype(int), axis=0).max() > 50  # something moved


def test_an_attempt_without_success_is_not_rendered(env, monkeypatch):
    spy = Spy(env)
    monkeypatch.setattr(env, "apply", lambda action: (0.0, False, True, {"success": False, "action": action}))
    monkeypatch.setattr(spy, "observe", None, raising=False)
    assert record_demo(spy, 0, 0.8, np.random.default_rng(0)) is None
    assert len(spy.seeds) == 1


def test_a_demonstration_may_go_on_after_success(env):
    short = record_demo(env, 0, 0.0, np.random.default_rng(0))
    calm = Spy(env)
    long = record_demo(calm, 0, 0.0, np.random.default_rng(0), linger=12)
    assert len(long.action) == len(short.action) + 12
    np.testing.assert_array_equal(long.images["corner2"][: len(short.action)], short.images["corner2"])
    np.testing.assert_array_equal(long.action[:-1], calm.applied[len(long.action) :])
    fingerprints = {fingerprint(spec_of(decode_env(CONFIG | more), 0)) for more in ({}, {"linger": 0}, {"linger": 12})}
    assert len(fingerprints) == 2
    with pytest.raises(UserError, match=r"env\.linger is -1"):
        spec_of(decode_env(CONFIG | {"linger": -1}), 0)


def test_demonstrations_are_collected_on_training_seeds(monkeypatch, env):
    spy = Spy(env)
    monkeypatch.setattr(episode, "_cached_env", lambda *_: spy)
    for seed, attempt in ((0, 0), (3, 17), (SEEDS - 1, EPISODES_PER_SEED - 1)):
        collect_attempt(decode_env(CONFIG), TASK, seed, attempt)
    assert spy.seeds[::2] == [episode_seed("train", 0, 0), episode_seed("train", 3, 17), SEEDS * EPISODES_PER_SEED - 1]
    assert spy.seeds[1::2] == spy.seeds[::2]  # played again, with images


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_any_run_of_attempts_has_its_share_of_noise(share):
    noisy = [is_noisy(attempt, share) for attempt in range(200)]
    for start in range(0, 160, 7):
        assert abs(sum(noisy[start : start + 40]) - 40 * share) <= 1
