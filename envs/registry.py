"""Environments by name: `env.name` in the configuration selects the entry."""

from collections.abc import Callable, Mapping
from typing import Any

import gymnasium as gym

from tinyvla.errors import UserError


def _make_metaworld(env_cfg: Mapping[str, Any], task: str) -> gym.Env:
    from .metaworld import MetaWorldEnv  # mujoco and its GL backend are loaded only when needed

    return MetaWorldEnv(task, list(env_cfg["cameras"]), env_cfg["image_size"], env_cfg["render"], env_cfg["max_steps"])


def _metaworld_tasks(env_cfg: Mapping[str, Any]) -> list[str]:
    from .metaworld.tasks import resolve_tasks

    return resolve_tasks(env_cfg["tasks"])


_ENVS: dict[str, tuple[Callable[[Mapping[str, Any], str], gym.Env], Callable[[Mapping[str, Any]], list[str]]]] = {
    "metaworld": (_make_metaworld, _metaworld_tasks),
}


def _entry(env_cfg: Mapping[str, Any]) -> tuple[Callable, Callable]:
    if env_cfg["name"] not in _ENVS:
        raise UserError(f"unknown env.name '{env_cfg['name']}'; there is {', '.join(_ENVS)}")
    return _ENVS[env_cfg["name"]]


def make_env(env_cfg: Mapping[str, Any], task: str) -> gym.Env:
    """The environment of one task, as the `env` configuration describes it."""
    return _entry(env_cfg)[0](env_cfg, task)


def resolve_tasks(env_cfg: Mapping[str, Any]) -> list[str]:
    """Task names of `env.tasks`, suites expanded."""
    return _entry(env_cfg)[1](env_cfg)
