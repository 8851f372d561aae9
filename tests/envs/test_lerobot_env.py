"""Our Meta-World in LeRobot's own tools."""

import json
import os
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from lerobot.configs import FeatureType, PreTrainedConfig
from lerobot.envs import make_env as make_lerobot_envs
from lerobot.envs import preprocess_observation
from lerobot.envs.configs import EnvConfig
from lerobot.envs.utils import NEW_ROLLOUT_OPTION, env_to_policy_features

import lerobot_policy_tinyvla
from configs.composing import as_dict, load_config
from envs import decode_env, make_env
from envs.lerobot_env import LeRobotEnv, TinyVLAMetaWorldConfig
from envs.metaworld.tasks import INSTRUCTIONS, SUITES
from envs.seeds import EPISODES_PER_SEED, SEEDS, episode_seed
from tinyvla.errors import UserError

ROOT = Path(__file__).parents[2]
SMALL = {"cameras": ["corner2", "topview"], "image_size": 32, "max_steps": 50}


def vector(task="reach-v3", n_envs=2, use_async_envs=False, **changes):
    config = TinyVLAMetaWorldConfig(task=task, **SMALL | changes)
    return make_lerobot_envs(config, n_envs, use_async_envs)


@pytest.mark.slow
def test_the_plug_in_makes_both_names_known_and_loads_no_simulator():
    assert lerobot_policy_tinyvla
    assert PreTrainedConfig.get_choice_class("tinyvla").__name__ == "TinyVLAConfig"
    assert EnvConfig.get_choice_class("tinyvla_metaworld") is TinyVLAMetaWorldConfig
    code = "import sys, lerobot_policy_tinyvla; print({'mujoco', 'metaworld'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.stdout == "set()\n", result.stderr


def test_defaults_are_those_of_our_own_configuration():
    ours = as_dict(load_config("collect").env)
    config = TinyVLAMetaWorldConfig()
    assert config.gym_kwargs == {name: ours[name] for name in config.gym_kwargs}
    assert ours["tasks"] == [config.task]
    assert config.type == "tinyvla_metaworld"


def test_features_are_those_of_the_dataset():
    features = env_to_policy_features(TinyVLAMetaWorldConfig(**SMALL))
    assert {name: (feature.type, tuple(feature.shape)) for name, feature in features.items()} == {
        "observation.images.corner2": (FeatureType.VISUAL, (3, 32, 32)),
        "observation.images.topview": (FeatureType.VISUAL, (3, 32, 32)),
        "observation.state": (FeatureType.STATE, (4,)),
        "action": (FeatureType.ACTION, (4,)),
    }


def test_tasks_and_suites_are_grouped_by_the_name_they_were_given():
    envs = vector("drawer-open-v3, hard", n_envs=1)
    assert {group: len(vectors) for group, vectors in envs.items()} == {"drawer-open-v3": 1, "hard": 6}
    for number, task in enumerate(SUITES["hard"]):
        assert envs["hard"][number].call("task") == (task,)
        assert envs["hard"][number].call("task_description") == (INSTRUCTIONS[task],)
        assert envs["hard"][number].envs[0].unwrapped._env is None  # no simulator before its turn
    with pytest.raises(UserError, match=r"did you mean .*drawer-open-v3"):
        vector("drawer-opne-v3")


@pytest.mark.parametrize("use_async_envs", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_lerobot_sees_what_the_policy_was_trained_on(use_async_envs):
    envs = vector(use_async_envs=use_async_envs)["reach-v3"][0]
    assert isinstance(envs, gym.vector.SyncVectorEnv) != use_async_envs
    batch, _ = envs.reset(seed=[7, 8], options={NEW_ROLLOUT_OPTION: True})
    action = np.full((2, 4), 0.5, np.float32)
    batches = [preprocess_observation(batch), preprocess_observation(envs.step(action)[0])]
    assert envs.call("_max_episode_steps") == (50, 50)
    assert envs.call("task_description") == (INSTRUCTIONS["reach-v3"],) * 2
    assert envs.call("render")[0].shape == (256, 256, 3)
    assert envs.unwrapped.metadata["render_fps"] == 80
    envs.close()

    ours = make_env(decode_env({"name": "metaworld", "render": "fast"} | SMALL), "reach-v3")
    for i in range(2):
        observations = [ours.reset(seed=episode_seed("evaluation", 0, 7 + i))[0], ours.step(action[i])[0]]
        for batch, observation in zip(batches, observations, strict=True):
            assert batch.keys() == observation.keys() - {"task"}
            for camera in SMALL["cameras"]:
                image = torch.from_numpy(observation[f"observation.images.{camera}"]).permute(2, 0, 1) / 255
                torch.testing.assert_close(batch[f"observation.images.{camera}"][i], image, rtol=0, atol=0)
            np.testing.assert_array_equal(batch["observation.state"][i], observation["observation.state"])
    ours.close()


class Fake:
    """In place of a simulator: remembers its seeds, and succeeds at the second step."""

    def __init__(self):
        self.seeds, self.steps = [], 0

    def observation(self):
        return {"observation.images.corner2": np.zeros((8, 8, 3), np.uint8), "observation.state": np.zeros(4)}

    def reset(self, seed):
        self.seeds.append(seed)
        self.steps = 0
        return self.observation(), {"success": False}

    def step(self, _):
        self.steps += 1
        return self.observation(), 1.0, self.steps == 2, False, {"success": self.steps == 2}


@pytest.fixture
def faked():
    env = LeRobotEnv(
        decode_env({"name": "metaworld", "cameras": ["corner2"], "image_size": 8, "max_steps": 50}), "reach-v3"
    )
    env._env = Fake()
    return env


def test_every_seed_is_one_of_the_evaluation_split(faked):
    numbers = (0, 1000, SEEDS * EPISODES_PER_SEED - 1)
    for number in numbers:
        faked.reset(seed=number)
    assert faked._env.seeds == [episode_seed("evaluation", 0, 0) + number for number in numbers]
    for _ in range(100):
        faked.reset()
    first, last = episode_seed("evaluation", 0, 0), episode_seed("evaluation", SEEDS - 1, EPISODES_PER_SEED - 1)
    assert all(first <= seed <= last for seed in faked._env.seeds)
    assert len(set(faked._env.seeds)) == 103
    with pytest.raises(UserError):
        faked.reset(seed=SEEDS * EPISODES_PER_SEED)


def test_success_ends_the_episode_as_lerobot_wants_to_be_told(faked):
    assert faked.reset(seed=0)[1] == {"is_success": False}
    assert faked.step(np.zeros(4))[2:] == (False, False, {"is_success": False})
    assert faked.step(np.zeros(4))[2:] == (True, False, {"is_success": True})


def test_an_environment_that_is_done_waits_for_its_batch():
    envs = vector(image_size=16, max_steps=3)["reach-v3"][0]
    for seeds in ([0, 1], [2, 3]):
        start, _ = envs.reset(seed=seeds, options={NEW_ROLLOUT_OPTION: True})
        for _ in range(3):
            last, _, _, truncated, info = envs.step(np.ones((2, 4), np.float32))
        assert truncated.all()
        assert not info["is_success"].any()
        frozen = envs.step(np.ones((2, 4), np.float32))[0]
        np.testing.assert_array_equal(last["agent_pos"], frozen["agent_pos"])
        assert (start["agent_pos"] != frozen["agent_pos"]).any()
    envs.close()


@pytest.fixture
def checkpoint(tmp_path):
    """A fresh policy, saved; its statistics are made up."""
    from policies import decode_policy_config, make_processors, save_checkpoint_files
    from policies.tinyvla.modeling_tinyvla import TinyVLAPolicy

    config = decode_policy_config(as_dict(load_config("train").policy), "cpu")
    features = env_to_policy_features(TinyVLAMetaWorldConfig(**SMALL))
    config.output_features = {"action": features.pop("action")}
    config.input_features = features
    policy = TinyVLAPolicy(config)
    ones = torch.ones(4)
    stats = {
        name: {"mean": 0 * ones, "std": ones, "min": -ones, "max": ones} for name in ("observation.state", "action")
    }
    save_checkpoint_files(policy, *make_processors(policy, stats), tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 2])
def test_lerobot_eval_runs_a_saved_policy(checkpoint, tmp_path, batch_size):
    command = [
        Path(sys.executable).parent / "lerobot-eval",
        f"--policy.path={checkpoint}", "--policy.device=cpu", "--env.type=tinyvla_metaworld",
        "--env.task=reach-v3,drawer-open-v3", "--env.image_size=32", "--env.max_steps=6",
        "--env.cameras=[corner2,topview]", "--eval.n_episodes=2", f"--eval.batch_size={batch_size}", "--seed=4",
        f"--output_dir={tmp_path / 'out'}",
    ]  # fmt: skip
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    info = json.loads((tmp_path / "out/eval_info.json").read_text())
    assert info["overall"]["n_episodes"] == 4
    assert set(info["per_group"]) == {"reach-v3", "drawer-open-v3"}
    assert len(list((tmp_path / "out/videos").rglob("*.mp4"))) == 4
