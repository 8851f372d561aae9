"""Meta-World as an entry of the environment registry. MuJoCo is loaded only when an environment is made."""

from dataclasses import dataclass, field
from pathlib import Path

from ..contract import Embodiment, EnvConfig, Environment, EnvironmentSpec
from . import ACTION_NAMES, CAMERAS, CONTROL_HZ, MAX_EPISODE_STEPS, STATE_NAMES
from .tasks import INSTRUCTIONS, SUITES


@dataclass(frozen=True)
class MetaWorldConfig(EnvConfig):
    """Configuration of Meta-World; the defaults are those of configs/env/metaworld.yaml."""

    name: str = "metaworld"
    cameras: list[str] = field(default_factory=lambda: ["corner2", "topview"])
    max_steps: int = MAX_EPISODE_STEPS


def _make(env_cfg: EnvConfig, task: str) -> Environment:
    from .env import MetaWorldEnv

    return MetaWorldEnv(task, env_cfg.cameras, env_cfg.image_size, env_cfg.render, env_cfg.max_steps)


METAWORLD = EnvironmentSpec(
    title="Meta-World",
    embodiment=Embodiment(
        robot_type="sawyer",
        fps=CONTROL_HZ,
        state_names=STATE_NAMES,
        action_names=ACTION_NAMES,
        action_low=(-1.0,) * len(ACTION_NAMES),
        action_high=(1.0,) * len(ACTION_NAMES),
        package="metaworld",
    ),
    instructions=INSTRUCTIONS,
    make=_make,
    config=MetaWorldConfig,
    cameras=CAMERAS,
    max_steps=MAX_EPISODE_STEPS,
    suites=SUITES,
    paraphrases=Path(__file__).with_name("paraphrases.yaml"),
)
