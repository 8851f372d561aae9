"""Environments by name: `env.name` of the configuration selects the simulator.

A package installed beside this one adds a simulator through an entry point:

    [project.entry-points."tinyvla.environments"]
    my_simulator = "my_package.my_simulator:SPEC"

where SPEC is an `envs.contract.EnvironmentSpec`, and `env.name=my_simulator` selects it.
"""

from collections.abc import Mapping
from dataclasses import fields
from functools import partial
from typing import Any

from tinyvla.errors import UserError, did_you_mean
from tinyvla.registry import Registry

from .contract import Embodiment, EnvConfig, Environment, EnvironmentSpec, NoiseConfig
from .shifts import Shift
from .task_suites import read_paraphrases

ENVIRONMENTS = Registry(
    "env.name",
    "tinyvla.environments",
    {"metaworld": "envs.metaworld.spec:METAWORLD", "so101": "envs.so101.spec:SO101"},
)
_ACCEPTED: dict[Any, tuple[type, ...]] = {int: (int,), float: (int, float), str: (str,), list[str]: (list, tuple)}


def spec_of(name: str) -> EnvironmentSpec:
    """Simulator of a name. Raises UserError for an unknown one, naming the nearest."""
    return ENVIRONMENTS.load(name)


def decode_env(section: Mapping[str, Any]) -> EnvConfig:
    """The `env` section of a configuration as its simulator's dataclass; settings that are missing get its defaults.

    Raises UserError for an unknown simulator or setting, naming the nearest, and for a value of another type.
    """
    if not section.get("name"):
        raise UserError(f"env.name is missing; use one of {', '.join(ENVIRONMENTS.names())}")
    config, values = spec_of(section["name"]).config, dict(section)
    if isinstance(tasks := values.get("tasks"), str):
        values["tasks"] = [tasks]
    if shift := values.pop("shift", None):
        values["shift"] = Shift(tuple(shift["names"]), shift["severity"])
    values["noise"] = _decode(NoiseConfig, values.get("noise") or {}, "env.noise")
    return _decode(config, values, "env")


def _decode(cls: Any, values: Mapping[str, Any], prefix: str) -> Any:
    """A dataclass from the values of its fields. Numbers keep their type, which is part of the names of datasets."""
    types, decoded = {field.name: field.type for field in fields(cls)}, {}
    for name, value in values.items():
        if name not in types:
            raise UserError(f"unknown setting {prefix}.{name}; {did_you_mean(name, types)}")
        accepted = _ACCEPTED.get(types[name])
        if accepted and (not isinstance(value, accepted) or isinstance(value, bool)):
            raise UserError(f"{prefix}.{name} is {value!r}; use a value of type {getattr(types[name], '__name__', '')}")
        decoded[name] = list(value) if types[name] == list[str] else value
    return cls(**decoded)


def embodiment_of(name: str) -> Embodiment:
    """Robot of the simulator with that name."""
    return spec_of(name).embodiment


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

    return ShiftedEnv(env, env_cfg.shift, partial(instruction_of, env_cfg, task))


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
