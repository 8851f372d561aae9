"""Environments by name: `env.name` in the configuration selects the entry."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import gymnasium as gym

from tinyvla.errors import UserError

from .shifts import Shift, shift_of


class _Entry(NamedTuple):
    make: Callable[[Mapping[str, Any], str], gym.Env]
    tasks: Callable[[Mapping[str, Any]], list[str]]
    instruction: Callable[[str], str]
    paraphrases: Callable[[str, int | None], list[str]]  # by task and severity, None for those of training


def _metaworld() -> _Entry:
    # mujoco and its GL backend are loaded only when an environment is made.
    from .metaworld.tasks import INSTRUCTIONS, paraphrases, resolve_tasks

    def make(env_cfg: Mapping[str, Any], task: str) -> gym.Env:
        from .metaworld.env import MetaWorldEnv

        return MetaWorldEnv(
            task, list(env_cfg["cameras"]), env_cfg["image_size"], env_cfg["render"], env_cfg["max_steps"]
        )

    return _Entry(make, lambda env_cfg: resolve_tasks(env_cfg["tasks"]), INSTRUCTIONS.__getitem__, paraphrases)


_ENVS: dict[str, Callable[[], _Entry]] = {"metaworld": _metaworld}


def _entry(env_cfg: Mapping[str, Any]) -> _Entry:
    if env_cfg["name"] not in _ENVS:
        raise UserError(f"unknown env.name '{env_cfg['name']}'; there is {', '.join(_ENVS)}")
    return _ENVS[env_cfg["name"]]()


def make_env(env_cfg: Mapping[str, Any], task: str) -> gym.Env:
    """The environment of one task, as the `env` configuration describes it; shifted where that says so."""
    env = _entry(env_cfg).make(env_cfg, task)
    if (shift := shift_of(env_cfg)) is None:
        return env
    from .shifts.wrapper import ShiftedEnv

    return ShiftedEnv(env, shift, partial(instruction_of, env_cfg, task))


def resolve_tasks(env_cfg: Mapping[str, Any]) -> list[str]:
    """Task names of `env.tasks`, suites expanded. Raises UserError for an unknown one, naming the nearest."""
    return _entry(env_cfg).tasks(env_cfg)


def instruction_of(env_cfg: Mapping[str, Any], task: str, seed: int | None = None) -> str:
    """What a policy is told to do in a task: its instruction, or other words for it where the configuration shifts it.

    seed: the episode's, which decides on the words; without one it is the task's own instruction.
    """
    shift, entry = shift_of(env_cfg), _entry(env_cfg)
    if shift is None or "instruction" not in shift.names or seed is None:
        return entry.instruction(task)
    return str(shift.rng("instruction", seed).choice(_wordings(entry, task, shift)))


def _wordings(entry: _Entry, task: str, shift: Shift) -> list[str]:
    """In training the instruction itself is among them."""
    others = entry.paraphrases(task, shift.severity)
    return [entry.instruction(task), *others] if shift.severity is None else others
