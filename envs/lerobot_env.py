"""Simulators for LeRobot's own tools: `lerobot-eval --env.type=tinyvla_metaworld --env.task=drawer-open-v3`.

Importing this module registers every simulator of the registry; simulators are loaded when they are needed.
"""

import warnings
from dataclasses import dataclass, field, make_dataclass
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.envs.configs import EnvConfig as LeRobotEnvConfig
from lerobot.envs.utils import _LazyAsyncVectorEnv, freeze_after_episode_end
from lerobot.utils.constants import ACTION, OBS_IMAGES, OBS_STATE

from tinyvla.errors import UserError

from .contract import EnvConfig
from .registry import ENVIRONMENTS, decode_env, embodiment_of, instruction_of, make_env, resolve_tasks, spec_of
from .seeds import EPISODES_PER_SEED, SEEDS, episode_seed
from .workers import one_core_each

_PREFIX = "tinyvla_"


def evaluation_seed(number: int) -> int:
    """Environment seed for LeRobot's seed `number` >= 0: one of the evaluation split, never a training seed.

    LeRobot seeds the i-th episode of a task with its `--seed` + i, so `--seed=0` plays what `evaluate.py seed=0` does.
    """
    return episode_seed("evaluation", *divmod(number, EPISODES_PER_SEED))


class LeRobotEnv(gym.Env):
    """Environment of `make_env` with LeRobot's names for observations and info.

    Observation: pixels {camera: uint8 (S, S, 3)} and agent_pos float32 (D,), which LeRobot's tools turn into
    observation.images.<camera> and observation.state; they read the instruction from `task_description`.
    """

    render_mode = "rgb_array"

    def __init__(self, env_cfg: EnvConfig, task: str):
        robot = embodiment_of(env_cfg.name)
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": robot.fps}
        self.task, self.task_description = task, instruction_of(env_cfg, task)
        self._max_episode_steps, self._cameras = env_cfg.max_steps, env_cfg.cameras
        self._make = partial(make_env, env_cfg, task)
        self._env: Any = None  # made at the first reset: LeRobot creates all tasks before it runs the first
        image = spaces.Box(0, 255, (env_cfg.image_size, env_cfg.image_size, 3), np.uint8)
        self.observation_space = spaces.Dict(
            {
                "pixels": spaces.Dict(dict.fromkeys(self._cameras, image)),
                "agent_pos": spaces.Box(-np.inf, np.inf, (len(robot.state_names),), np.float32),
            }
        )
        low, high = (np.array(limit, np.float32) for limit in (robot.action_low, robot.action_high))
        self.action_space = spaces.Box(low, high, dtype=np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict, dict[str, Any]]:
        """Begin the episode of LeRobot's seed, see `evaluation_seed`; a random one without a seed."""
        super().reset(seed=seed)
        if seed is None:
            seed = int(self.np_random.integers(SEEDS * EPISODES_PER_SEED))
        self._env = self._env or self._make()
        observation, _ = self._env.reset(seed=evaluation_seed(seed))
        return self._renamed(observation), {"is_success": False}

    def step(self, action: np.ndarray) -> tuple[dict, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self._env.step(action)
        return self._renamed(observation), reward, terminated, truncated, {"is_success": info["success"]}

    def render(self) -> np.ndarray:
        return self._env.render()

    def close(self) -> None:
        if self._env is not None:
            self._env.close()
        self._env = None

    def _renamed(self, observation: dict[str, Any]) -> dict[str, Any]:
        pixels = {camera: observation[f"{OBS_IMAGES}.{camera}"] for camera in self._cameras}
        return {"pixels": pixels, "agent_pos": observation[OBS_STATE]}


class _VectorEnv(_LazyAsyncVectorEnv):
    """LeRobot's worker processes, which start when their task begins, with one core each."""

    def _ensure(self) -> None:
        with one_core_each():
            super()._ensure()


@dataclass
class _SimulatorConfig(LeRobotEnvConfig):
    """Options of `--env.type=tinyvla_<simulator>`, see `register`.

    Args:
        task: tasks and suites, separated by commas: drawer-open-v3,mt10.
        cameras, image_size, render, max_steps: as in `envs.contract.EnvConfig`; what the policy was trained with.

    `register` adds the settings that only the simulator has.
    """

    task: str = "default"
    fps: int = 0
    cameras: list[str] = field(default_factory=list)
    image_size: int = 96
    render: str = "fast"
    max_steps: int = 0

    def __post_init__(self) -> None:
        robot = embodiment_of(self.gym_kwargs["name"])
        image = PolicyFeature(FeatureType.VISUAL, (self.image_size, self.image_size, 3))
        self.features = {f"pixels/{camera}": image for camera in self.cameras} | {
            "agent_pos": PolicyFeature(FeatureType.STATE, (len(robot.state_names),)),
            ACTION: PolicyFeature(FeatureType.ACTION, (len(robot.action_names),)),
        }
        self.features_map = {f"pixels/{camera}": f"{OBS_IMAGES}.{camera}" for camera in self.cameras} | {
            "agent_pos": OBS_STATE,
            ACTION: ACTION,
        }

    @property
    def gym_kwargs(self) -> dict[str, Any]:
        """The `env` section of a configuration, as `envs.decode_env` takes it."""
        simulator = self.type.removeprefix(_PREFIX)
        own_names = (setting.name for setting in spec_of(simulator).config.own_fields())
        names = ("cameras", "image_size", "render", "max_steps", *own_names)
        return {"name": simulator} | {name: getattr(self, name) for name in names}

    def create_envs(self, n_envs: int, use_async_envs: bool = False) -> dict[str, dict[int, Any]]:
        """Vector environments of `n_envs` episodes: {task or suite: {number of the task: vector environment}}.

        Raises UserError for an unknown task or suite, naming the nearest.
        """
        vectors: dict[str, dict[int, Any]] = {}
        for group in (name.strip() for name in self.task.split(",")):
            env_cfg = decode_env(self.gym_kwargs | {"tasks": group})
            tasks = resolve_tasks(env_cfg)
            vectors[group] = {i: _vector(env_cfg, task, n_envs, use_async_envs) for i, task in enumerate(tasks)}
        return vectors


def _vector(env_cfg: EnvConfig, task: str, n_envs: int, use_async_envs: bool) -> Any:
    make = [partial(LeRobotEnv, env_cfg, task)] * n_envs
    if use_async_envs and n_envs > 1:
        return _VectorEnv(make)
    return gym.vector.SyncVectorEnv([freeze_after_episode_end(make_one) for make_one in make])


def register(simulator: str) -> type[_SimulatorConfig]:
    """Register `--env.type=tinyvla_<simulator>` with LeRobot, with the defaults of the simulator's `EnvConfig`."""
    spec = spec_of(simulator)
    defaults = spec.config(name=simulator)
    options: list[Any] = [
        ("fps", int, spec.embodiment.fps),
        ("cameras", list[str], field(default_factory=lambda: list(defaults.cameras))),
        ("image_size", int, defaults.image_size),
        ("render", str, defaults.render),
        ("max_steps", int, defaults.max_steps),
        *(
            (setting.name, setting.type, field(default=setting.default, default_factory=setting.default_factory))
            for setting in spec.config.own_fields()
        ),
    ]
    config = make_dataclass(f"TinyVLA{type(defaults).__name__}", options, bases=(_SimulatorConfig,), module=__name__)
    return LeRobotEnvConfig.register_subclass(f"{_PREFIX}{simulator}")(config)


TinyVLAMetaWorldConfig, TinyVLASO101Config = register("metaworld"), register("so101")
for _simulator in set(ENVIRONMENTS.names()) - {"metaworld", "so101"}:
    try:
        register(_simulator)
    except UserError as error:  # a broken package must not disable the others
        warnings.warn(str(error), stacklevel=1)
