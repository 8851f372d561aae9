"""Adapter that makes a plain Gymnasium environment fulfil the environment contract."""

import string
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from tinyvla.errors import UserError

from .contract import TASK, EnvConfig, Environment, EnvironmentSpec, SceneElements


class GymnasiumEnvironment(Environment):
    """A plain `gymnasium.Env` as an `Environment`: `observe` returns the observation of the last step.

    The environment needs the observations, actions and `info["success"]` of the contract; the instruction is added
    where its observations have none. Success ends an episode, and `env_cfg.max_steps` truncate it.

    Args:
        env: the Gymnasium environment.
        spec: its simulator, with `expert`, `mujoco` and `scene_elements` where there are such.
        env_cfg: the `env` configuration.
        task: name of the task.
    """

    def __init__(self, env: gym.Env, spec: EnvironmentSpec, env_cfg: EnvConfig, task: str):
        self._env, self._spec, self._max_steps = env, spec, env_cfg.max_steps
        self.task, self.instruction = task, spec.instructions[task]
        self.metadata = dict(env.metadata) | {"render_fps": spec.embodiment.fps}
        text = spaces.Text(256, charset=string.printable)
        self.observation_space: Any = env.observation_space
        if isinstance(env.observation_space, spaces.Dict):
            self.observation_space = spaces.Dict({TASK: text} | env.observation_space.spaces)
        self.action_space = env.action_space
        if spec.mujoco:
            self.model, self.data = spec.mujoco(env.unwrapped)
        self._observation: dict[str, Any] | None = None
        self._steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict, dict[str, Any]]:
        super().reset(seed=seed)
        observation, info = self._env.reset(seed=seed, options=options)
        self._steps, self._observation = 0, observation
        return self.observe(), info | {"success": False}

    def apply(self, action: np.ndarray) -> tuple[float, bool, bool, dict[str, Any]]:
        self._observation, reward, terminated, truncated, info = self._env.step(action)
        self._steps += 1
        if "success" not in info:
            raise UserError(f"info of {self._spec.title} has no 'success'; add whether the task is solved, a bool")
        success = bool(info["success"])
        truncated = truncated or (not success and self._steps >= self._max_steps)
        return float(reward), terminated or success, truncated, info | {"success": success}

    def observe(self) -> dict[str, Any]:
        if self._observation is None:
            raise gym.error.ResetNeeded("call reset before observe")
        return {TASK: self.instruction} | self._observation

    def expert_action(self) -> np.ndarray:
        if self._spec.expert is None:
            return super().expert_action()
        return np.asarray(self._spec.expert(self._env.unwrapped), np.float32)

    def scene_elements(self) -> SceneElements | None:
        return self._spec.scene_elements(self.model) if self._spec.scene_elements else None

    def close(self) -> None:
        self._env.close()
