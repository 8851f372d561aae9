"""The environment contract: the members that collect, train, evaluate and the shifts use of a simulator.

A simulator is one `EnvironmentSpec`, an object in one module of the simulator's package. The module must import
without loading the simulator; `make` loads it. The registry finds the object by `env.name` (see `envs.registry`).

`EnvironmentSpec.make` returns either

- an `Environment`: a Gymnasium environment whose `step` is split into `apply` and `observe`, so that images are only
  rendered when a policy needs them, or
- any `gymnasium.Env` with the same spaces, which `envs.gymnasium_adapter` adapts.

`check_env` reports every violation of the contract.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from tinyvla.errors import UserError, one_line
from tinyvla.ranges import check_range

from .shifts.axes import Shift
from .task_suites import expand_tasks

IMAGES, STATE, TASK = "observation.images.", "observation.state", "task"


class Embodiment(NamedTuple):
    """The robot of a simulator, as datasets describe it.

    robot_type: name of the robot. fps: control steps per second, and frames per second of datasets. state_names,
    action_names: one name for each number of `observation.state` and of the action. action_low, action_high: limits of
    each number of the action. package: distribution that contains the simulator; datasets record its version.
    """

    robot_type: str
    fps: int
    state_names: list[str]
    action_names: list[str]
    action_low: tuple[float, ...]
    action_high: tuple[float, ...]
    package: str


class SceneElements(NamedTuple):
    """Elements of an environment's MuJoCo model that the shifts change.

    objects: ids of the bodies that are the task's objects; their child bodies belong to them. table, background: ids of
    the geoms of the table, and of floor and walls. surface: (x0, y0, x1, y1, z) in metres of the part of the table that
    the cameras show. state_noise: (S,), a small measurement error of each number of `observation.state`.
    """

    objects: tuple[int, ...]
    table: tuple[int, ...]
    background: tuple[int, ...]
    surface: tuple[float, float, float, float, float]
    state_noise: np.ndarray

    @property
    def centre(self) -> np.ndarray:
        """Centre of the surface, (3,) in metres."""
        x0, y0, x1, y1, z = self.surface
        return np.array([(x0 + x1) / 2, (y0 + y1) / 2, z])


@dataclass(frozen=True)
class NoiseConfig:
    """Noise added to the expert's actions while demonstrations are collected, see `envs.demos.episode`.

    share: share of the episodes with noise. std: standard deviation of a burst, in action units. Whole numbers stay
    whole: the values are part of the names of datasets.
    """

    share: int | float = 0.75
    std: int | float = 0.8

    def __post_init__(self) -> None:
        check_range(self, "share", low=0, high=1)
        check_range(self, "std", low=0)


@dataclass(frozen=True)
class EnvConfig:
    """The `env` section of a configuration. A simulator with more settings subclasses it, see `EnvironmentSpec.config`.

    name: name in the registry. tasks: names of tasks and suites. cameras: cameras to render. image_size: side of the
    square images in pixels. render: "fast" or "faithful". max_steps: control steps after which an episode is truncated.
    linger: control steps that a demonstration continues after success. shift: shift or randomisation of the episodes,
    set by `envs.shifts.with_shift` and `envs.shifts.with_randomisation`.
    """

    name: str
    tasks: list[str] = field(default_factory=lambda: ["default"])
    cameras: list[str] = field(default_factory=list)
    image_size: int = 96
    render: str = "fast"
    max_steps: int = 300
    noise: NoiseConfig = NoiseConfig()
    linger: int = 0
    shift: Shift | None = None

    @classmethod
    def own_fields(cls) -> list[Field[Any]]:
        """Settings that only this simulator has."""
        common = {field.name for field in fields(EnvConfig)}
        return [field for field in fields(cls) if field.name not in common]

    def own_settings(self) -> dict[str, Any]:
        """Values of `own_fields` by name, as far as they differ from their defaults."""
        values = {field.name: (getattr(self, field.name), field.default) for field in self.own_fields()}
        return {name: value for name, (value, default) in values.items() if value != default}


def as_arguments(settings: Mapping[str, Any]) -> list[str]:
    """Settings as they are written on a command line, such as `goal_markers=false`."""
    texts = {
        key: value if isinstance(value, str) else json.dumps(value, default=list) for key, value in settings.items()
    }
    return [f"{key}={text.replace(' ', '')}" for key, text in texts.items()]


class Environment(gym.Env, ABC):
    """One task of a simulator.

    Observation: a dict of `observation.images.<camera>` uint8 (H, W, 3) for each camera, `observation.state` float32
    (S,), and `task`, the instruction. `observation_space` is a `spaces.Dict` with the same keys.
    Action: float32 (A,); `action_space` is a bounded `spaces.Box`.
    `info["success"]`: a bool, whether the task is solved after this step. Success ends the episode (terminated);
    without success, `max_steps` end it (truncated). With a seed, an episode is a pure function of task, seed, options
    and actions.

    task: name of the task. instruction: sentence that tells a policy the task. metadata["render_fps"]: control steps
    per second. arm_actions: the first numbers of the action that noise may disturb, such as those of the arm without
    the gripper; None: all.

    Shifts of the simulation need `model` and `data` (MuJoCo's), `scene_elements()`, and `renderers`
    (`envs.rendering.CameraRenderers`), which render the images. The shift `position` needs a `reset` that reads
    options={"outside": metres}. They are None where an environment does not support them.
    """

    render_mode = "rgb_array"
    task: str
    instruction: str
    arm_actions: int | None = None
    model: Any = None
    data: Any = None
    renderers: Any = None

    @abstractmethod
    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict, dict[str, Any]]:
        """Begin an episode: (observation, {"success": False}).

        Call `super().reset(seed=seed)` first, which seeds `self.np_random`.
        """
        super().reset(seed=seed)
        return {}, {"success": False}

    @abstractmethod
    def apply(self, action: np.ndarray) -> tuple[float, bool, bool, dict[str, Any]]:
        """Advance one control step without rendering: (reward, terminated, truncated, info)."""

    @abstractmethod
    def observe(self) -> dict[str, Any]:
        """Observation of the current state; calling it does not change the episode."""

    def step(self, action: np.ndarray) -> tuple[dict, float, bool, bool, dict[str, Any]]:
        """Gymnasium's step: `apply`, then `observe`."""
        reward, terminated, truncated, info = self.apply(action)
        return self.observe(), reward, terminated, truncated, info

    def expert_action(self) -> np.ndarray:
        """Action of the scripted expert in the current state, float32 (A,), not clipped.

        Raises UserError where there is no expert.
        """
        raise UserError(
            f"the task {self.task} has no expert to collect demonstrations with; train on a dataset: "
            "dataset.repo_id=... or dataset.root=..."
        )

    def scene_elements(self) -> SceneElements | None:
        """Elements of the MuJoCo model that the shifts change; None where shifts are not supported."""
        return None

    def render(self) -> np.ndarray:
        """Image of the current state for people, uint8 (H, W, 3); by default that of the first camera."""
        return next(value for key, value in self.observe().items() if key.startswith(IMAGES))


@dataclass(frozen=True, kw_only=True)
class EnvironmentSpec:
    """A simulator: everything that this repository needs to know of it.

    Args:
        title: name in messages, such as "Meta-World".
        embodiment: the robot.
        instructions: sentence that tells a policy the task, by task name. Its keys are the tasks.
        make: makes the environment of one task, from the configuration and the task's name.
        config: class of the configuration; its defaults are those of the simulator.
        cameras: names of the cameras; None: any, which the environment itself checks.
        max_steps: longest episode in control steps; None: any.
        suites: task names by the name of a group of tasks. `default` (all tasks, unless given) is the usual choice.
        paraphrases: YAML file with other wordings of the instructions, see `envs.task_suites.read_paraphrases`.
        expert, mujoco, scene_elements: only for a plain `gymnasium.Env`, which has no such members. The expert's action
            in the current state; (model, data) of MuJoCo; elements of the model that the shifts change.
    """

    title: str
    embodiment: Embodiment
    instructions: Mapping[str, str]
    make: Callable[[Any, str], gym.Env]
    config: type[EnvConfig] = EnvConfig
    cameras: Sequence[str] | None = None
    max_steps: int | None = None
    suites: Mapping[str, Sequence[str]] = field(default_factory=dict)
    paraphrases: Path | None = None
    expert: Callable[[Any], np.ndarray] | None = None
    mujoco: Callable[[Any], tuple[Any, Any]] | None = None
    scene_elements: Callable[[Any], SceneElements] | None = None

    def resolve_tasks(self, names: str | Iterable[str]) -> list[str]:
        """Task names in the order given, suites expanded, each once. Raises UserError for unknown names."""
        suites = {"default": list(self.instructions)} | {name: list(tasks) for name, tasks in self.suites.items()}
        return expand_tasks(names, self.instructions, suites, self.title)


def check_env(env: Any, embodiment: Embodiment | None = None, seed: int = 0) -> None:
    """Raise UserError, with one line per violation, unless an environment fulfils the contract.

    env: an `Environment`, as `envs.make_env` returns. embodiment: the robot that its spaces must match. Two short
    episodes with `seed` are played.
    """
    violations = _space_violations(env, embodiment)
    if not violations:
        try:
            violations = _episode_violations(env, seed)
        except UserError:
            raise
        except Exception as error:
            violations = [f"an episode ended with {type(error).__name__}: {one_line(error)}"]
    if violations:
        raise UserError("\n".join(violations))


def _space_violations(env: Any, embodiment: Embodiment | None) -> list[str]:
    """Violations by spaces and declared members."""
    observations, actions, violations = env.observation_space, env.action_space, list[str]()
    if not isinstance(observations, spaces.Dict):
        return [f"observation_space is {type(observations).__name__}; use a gymnasium spaces.Dict"]
    images: dict[str, Any] = {key: space for key, space in observations.items() if key.startswith(IMAGES)}
    if not images:
        violations.append(f"observation_space has no {IMAGES}<camera>; add one or more")
    for key, space in images.items():
        if not _is_box(space, np.uint8) or len(space.shape) != 3 or space.shape[2] != 3:
            violations.append(f"{key} is {space}; use a Box of uint8 with shape (H, W, 3)")
    state: Any = observations.spaces.get(STATE)
    if not _is_box(state, np.float32) or len(state.shape) != 1:
        violations.append(f"{STATE} is {state}; use a Box of float32 with shape (S,)")
    if not isinstance(observations.spaces.get(TASK), spaces.Text):
        violations.append(f"{TASK} is {observations.spaces.get(TASK)}; use a gymnasium spaces.Text")
    if not _is_box(actions, np.float32) or len(actions.shape) != 1 or not actions.is_bounded():
        violations.append(f"action_space is {actions}; use a bounded Box of float32 with shape (A,)")
    if not env.metadata.get("render_fps", 0) > 0:
        violations.append("metadata['render_fps'] is missing; set it to the control steps per second")
    if not isinstance(env.instruction, str) or not env.instruction:
        violations.append(f"instruction is {env.instruction!r}; use a sentence that tells a policy the task")
    if not violations and env.arm_actions is not None and not 0 <= env.arm_actions <= actions.shape[0]:
        violations.append(f"arm_actions is {env.arm_actions}; use 0 to {actions.shape[0]}, the size of an action")
    return violations if violations or embodiment is None else _embodiment_violations(env, embodiment)


def _is_box(space: Any, dtype: type) -> bool:
    return isinstance(space, spaces.Box) and space.dtype == dtype


def _embodiment_violations(env: Any, embodiment: Embodiment) -> list[str]:
    state, actions, violations = env.observation_space[STATE].shape[0], env.action_space, list[str]()
    for name, names, size in (("state", embodiment.state_names, state), ("action", embodiment.action_names, None)):
        size = actions.shape[0] if size is None else size
        if len(names) != size:
            violations.append(f"embodiment.{name}_names has {len(names)} names but the {name} has {size} numbers")
    for name, limits, bound in (
        ("low", embodiment.action_low, actions.low),
        ("high", embodiment.action_high, actions.high),
    ):
        if len(limits) != len(bound) or not np.allclose(limits, bound):
            violations.append(f"embodiment.action_{name} is {limits} but action_space.{name} is {bound.tolist()}")
    if embodiment.fps != env.metadata["render_fps"]:
        violations.append(
            f"embodiment.fps is {embodiment.fps} but metadata['render_fps'] is {env.metadata['render_fps']}"
        )
    return violations


def _episode_violations(env: Any, seed: int) -> list[str]:
    """Violations in two episodes with the same seed and actions."""
    action, violations = ((env.action_space.low + env.action_space.high) / 2).astype(np.float32), list[str]()
    episodes = []
    for _ in range(2):
        first, info = env.reset(seed=seed)
        violations += _observation_violations(env, first, "reset") + _info_violations(info, "reset")
        outcome = env.apply(action)
        if len(outcome) != 4:
            return [*violations, f"apply returns {len(outcome)} values; return reward, terminated, truncated, info"]
        violations += _info_violations(outcome[3], "apply")
        last = env.observe()
        violations += _observation_violations(env, last, "observe")
        episodes.append((first, last))
    for one, two, call in zip(*episodes, ("reset", "apply"), strict=True):
        if unequal := [key for key in one if not np.array_equal(one[key], two[key])]:
            violations.append(
                f"{unequal[0]} differs after {call} in two episodes with seed {seed}; derive it from the seed"
            )
    image = env.render()
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        violations.append("render returns no image; return uint8 (H, W, 3)")
    elements = env.scene_elements()
    if elements is not None and len(elements.state_noise) != env.observation_space[STATE].shape[0]:
        violations.append(
            f"scene_elements().state_noise has {len(elements.state_noise)} numbers; use one per state number"
        )
    return list(dict.fromkeys(violations))


def _observation_violations(env: Any, observation: dict[str, Any], call: str) -> list[str]:
    space = env.observation_space
    if unequal := sorted(space.spaces.keys() ^ observation.keys()):
        return [f"{unequal[0]} is not in both the observation of {call} and observation_space"]
    return [
        f"{key} of {call} is {_describe(value)}; observation_space has {space[key]}"
        for key, value in observation.items()
        if not space[key].contains(value)
    ]


def _describe(value: Any) -> str:
    return f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else repr(value)


def _info_violations(info: Mapping[str, Any], call: str) -> list[str]:
    success = info.get("success")
    return [] if isinstance(success, bool | np.bool_) else [f"info['success'] of {call} is {success!r}; use a bool"]
