"""Environments by name: `env.name` of the configuration selects the simulator.

A package installed beside this one adds a simulator through an entry point:

    [project.entry-points."tinyvla.environments"]
    my_simulator = "my_package.my_simulator:SPEC"

where SPEC is an `envs.contract.EnvironmentSpec`, and `env.name=my_simulator` selects it.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from gymnasium import spaces

from tinyvla.decoding import decode_section
from tinyvla.errors import UserError
from tinyvla.registry import Registry

from .contract import Embodiment, EnvConfig, Environment, EnvironmentSpec
from .env_checks import check_images, check_max_steps, observation_space
from .shifts import Shift
from .task_suites import read_paraphrases

ENVIRONMENTS = Registry(
    "env.name",
    "tinyvla.environments",
    {"metaworld": "envs.metaworld.spec:METAWORLD", "so101": "envs.so101.spec:SO101"},
)


def spec_of(name: str) -> EnvironmentSpec:
    """Simulator of a name. Raises UserError for an unknown one, naming the nearest."""
    return ENVIRONMENTS.load(name)


def decode_env(section: Mapping[str, Any]) -> EnvConfig:
    """The `env` section of a configuration as its simulator's dataclass; settings that are missing get its defaults.

    Raises UserError for an unknown simulator or setting, naming the nearest, and for a value of another type.
    """
    if not section.get("name"):
        raise UserError(f"env.name is missing; use one of {', '.join(ENVIRONMENTS.names())}")
    values = dict(section)
    if isinstance(tasks := values.get("tasks"), str):
        values["tasks"] = [tasks]
    if isinstance(shift := values.get("shift"), Mapping):
        values["shift"] = Shift(tuple(shift["names"]), shift["severity"])
    spec = spec_of(values["name"])
    env_cfg = decode_section(spec.config, values, "env")
    check_env_config(env_cfg)
    return env_cfg


def check_env_config(env_cfg: EnvConfig) -> None:
    """Raise UserError for cameras, images or an episode's length that the simulator does not have."""
    spec = spec_of(env_cfg.name)
    check_images(env_cfg.cameras, spec.cameras, env_cfg.image_size, env_cfg.render, spec.title)
    check_max_steps(env_cfg.max_steps, spec.max_steps, spec.title)


def embodiment_of(name: str) -> Embodiment:
    """Robot of the simulator with that name."""
    return spec_of(name).embodiment


def spaces_of(env_cfg: EnvConfig) -> tuple[spaces.Dict, spaces.Box] | None:
    """Observation and action space of a simulator's tasks, without loading it; None if it does not list its cameras."""
    spec = spec_of(env_cfg.name)
    if spec.cameras is None:
        return None
    robot = spec.embodiment
    low, high = (np.array(limits, np.float32) for limits in (robot.action_low, robot.action_high))
    observations = observation_space(env_cfg.cameras, env_cfg.image_size, len(robot.state_names))
    return observations, spaces.Box(low, high)


def resolve_tasks(env_cfg: EnvConfig) -> list[str]:
    """Task names of `env.tasks`, suites expanded. Raises UserError for an unknown one, naming the nearest."""
    return spec_of(env_cfg.name).resolve_tasks(env_cfg.tasks)


def make_env(env_cfg: EnvConfig, task: str) -> Environment:
    """Environment of one task, with the shift or randomisation of the configuration."""
    spec = spec_of(env_cfg.name)
    env: Any = spec.make(env_cfg, task)
    if not isinstance(env, Environment):
        from .gymnasium_adapter import GymnasiumEnvironment

        env = GymnasiumEnvironment(env, spec, env_cfg, task)
    if env_cfg.shift is None:
        return env
    from .shifts.shifted_env import ShiftedEnv

    shifted: Any = ShiftedEnv(env, env_cfg.shift, partial(instruction_of, env_cfg, task))  # has the same members
    return shifted


def instruction_of(env_cfg: EnvConfig, task: str, seed: int | None = None) -> str:
    """Instruction of a task; a paraphrase where the configuration shifts or randomises the instruction.

    seed: the episode's, which selects the paraphrase; None: the task's own instruction.
    """
    shift, spec = env_cfg.shift, spec_of(env_cfg.name)
    if shift is None or "instruction" not in shift.names or seed is None:
        return spec.instructions[task]
    return str(shift.rng("instruction", seed).choice(_wordings(spec, task, shift)))


def _wordings(spec: EnvironmentSpec, task: str, shift: Shift) -> list[str]:
    """Wordings to choose from; in training the instruction itself is among them."""
    if spec.paraphrases is None:
        raise UserError(f"{spec.title} has no paraphrases of its instructions; leave instruction out")
    paraphrases = read_paraphrases(spec.paraphrases, task, shift.severity)
    return [spec.instructions[task], *paraphrases] if shift.severity is None else paraphrases
