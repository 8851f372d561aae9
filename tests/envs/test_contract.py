"""The environment contract: every violation is one line, and a plain Gymnasium environment runs through everything."""

import json
from dataclasses import dataclass

import gymnasium as gym
import numpy as np
import pytest
from block_env import BlockEnv
from gymnasium import spaces
from tiny import SerialPool

from configs.composing import as_dict, load_config
from envs import decode_env, make_env, resolve_tasks
from envs.contract import Embodiment, EnvConfig, Environment, EnvironmentSpec, check_env
from envs.demos import ensure_dataset
from envs.demos.collect import spec_of
from envs.registry import ENVIRONMENTS, embodiment_of
from envs.shifts import with_randomisation, with_shift
from tinyvla.errors import UserError

ROBOT = Embodiment("finger", 20, ["x"], ["dx"], (-1.0,), (1.0,), "mujoco")


class PlainEnv(gym.Env):
    """Gymnasium environment that knows nothing of the contract's own members."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012
    render_mode = "rgb_array"

    def __init__(self):
        self.block = BlockEnv()
        self.model, self.data = self.block.model, self.block.data
        self.observation_space = spaces.Dict(
            {name: space for name, space in self.block.observation_space.items() if name != "task"}
        )
        self.action_space = self.block.action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        observation, _ = self.block.reset(seed=seed)
        return {name: observation[name] for name in self.observation_space}, {}

    def step(self, action):
        self.block.apply(action)
        observation = {name: value for name, value in self.block.observe().items() if name != "task"}
        return observation, 0.0, False, False, {"success": bool(self.data.qpos[-1] > 0.1)}

    def render(self):
        return self.block.render()

    def close(self):
        self.block.close()


@dataclass(frozen=True)
class FingerConfig(EnvConfig):
    """Configuration with a setting of its own."""

    cameras: tuple[str, ...] = ("eye",)
    image_size: int = 48
    max_steps: int = 60
    friction: float = 1.0


FINGER = EnvironmentSpec(
    title="finger",
    embodiment=ROBOT,
    instructions={"slide": "slide the finger to the right"},
    make=lambda env_cfg, task: PlainEnv(),
    config=FingerConfig,
    expert=lambda env: np.ones(1),
    mujoco=lambda env: (env.model, env.data),
    scene_elements=lambda model: BlockEnv.scene_elements(type("Holder", (), {"model": model})),
)


@pytest.fixture
def finger(monkeypatch):
    """The name of the plain environment in the registry."""
    monkeypatch.setitem(ENVIRONMENTS.builtin, "finger", f"{__name__}:FINGER")
    return "finger"


@pytest.mark.parametrize(("name", "task"), [("metaworld", "drawer-open-v3"), ("so101", "pick-lift")])
def test_our_simulators_fulfil_the_contract(name, task):
    env = make_env(decode_env({"name": name, "image_size": 32}), task)
    assert isinstance(env, Environment)
    check_env(env, embodiment_of(name))
    env.close()


@pytest.mark.parametrize("name", ["metaworld", "so101"])
def test_defaults_of_the_dataclass_are_those_of_the_yaml(name):
    section = as_dict(load_config("collect", [f"env={name}"]).env)
    assert decode_env(section) == decode_env({"name": name})
    assert set(section) <= set(vars(decode_env({"name": name})))


def test_every_violation_is_one_line():
    class Wrong(BlockEnv):
        instruction = ""
        metadata = {}  # noqa: RUF012

    env = Wrong()
    env.observation_space = spaces.Dict({"observation.state": spaces.Box(-1, 1, (1,), np.float64)})
    env.action_space = spaces.Discrete(3)
    with pytest.raises(UserError) as error:
        check_env(env)
    lines = str(error.value).splitlines()
    subjects = ("observation.images", "observation.state", "task", "action_space", "render_fps", "instruction")
    assert len(lines) == 6
    assert all(subject in line for subject, line in zip(subjects, lines, strict=True))
    env.close()


def test_violations_of_episodes_and_of_the_embodiment():
    class Random(BlockEnv):
        def reset(self, *, seed=None, options=None):
            return super().reset(seed=None)

        def apply(self, action):
            return 0.0, False, False, {}

    env = Random()
    with pytest.raises(UserError, match=r"info\['success'\] of apply is None") as error:
        check_env(env)
    assert "differs after reset in two episodes with seed 0" in str(error.value)
    with pytest.raises(UserError, match=r"embodiment.state_names has 2 names but the state has 1 numbers"):
        check_env(env, ROBOT._replace(state_names=["x", "y"]))
    with pytest.raises(UserError, match="has no expert to collect demonstrations with"):
        Environment.expert_action(env)
    env.close()


def test_a_plain_gymnasium_environment_is_adapted(finger):
    env_cfg = decode_env({"name": finger, "tasks": "default", "max_steps": 9})
    assert resolve_tasks(env_cfg) == ["slide"]
    env = make_env(env_cfg, "slide")
    check_env(env, ROBOT)
    observation, info = env.reset(seed=1)
    assert (observation["task"], info["success"]) == ("slide the finger to the right", False)
    outcomes = [env.step(np.zeros(1, np.float32))[2:4] for _ in range(9)]
    assert outcomes == [(False, False)] * 8 + [(False, True)]
    env.close()


def test_a_plain_gymnasium_environment_is_collected_and_shifted(finger, tmp_path, monkeypatch):
    for module in ("envs.demos.collect", "envs.demos.dataset"):
        monkeypatch.setattr(f"{module}.worker_pool", SerialPool)
    env_cfg = decode_env({"name": finger})
    root = ensure_dataset(with_randomisation(env_cfg, ["lighting"]), ["slide"], 2, 0, tmp_path, 1)
    info = json.loads((root / "meta/info.json").read_text())
    assert (info["total_episodes"], info["robot_type"], info["fps"]) == (2, "finger", 20)
    plain, shifted = (make_env(cfg, "slide") for cfg in (env_cfg, with_shift(env_cfg, ["lighting", "camera_pose"], 2)))
    first, other = plain.reset(seed=3)[0], shifted.reset(seed=3)[0]
    assert (first["observation.images.eye"] != other["observation.images.eye"]).any()
    with pytest.raises(UserError, match="the axis distractors needs the environment's images"):
        make_env(with_shift(env_cfg, ["distractors"], 1), "slide")
    with pytest.raises(UserError, match="finger has no paraphrases of its instructions"):
        make_env(with_shift(env_cfg, ["instruction"], 1), "slide").reset(seed=0)
    plain.close()
    shifted.close()


def test_a_simulators_own_settings(finger):
    env_cfg = decode_env({"name": finger, "friction": 0.5})
    assert spec_of(env_cfg, 0)["friction"] == 0.5
    assert "friction" not in spec_of(decode_env({"name": finger}), 0)
    with pytest.raises(UserError, match=r"unknown setting 'env.frictoin'; did you mean env.friction"):
        decode_env({"name": finger, "frictoin": 1})
    with pytest.raises(UserError, match=r"env.image_size=big is not a whole number"):
        decode_env({"name": "metaworld", "image_size": "big"})
