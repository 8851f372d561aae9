"""Meta-World as an entry of the environment registry. MuJoCo is loaded only when an environment is made."""

from dataclasses import dataclass, field
from pathlib import Path

from ..contract import Embodiment, EnvConfig, Environment, EnvironmentSpec
from . import ACTION_NAMES, CAMERAS, CONTROL_HZ, MAX_EPISODE_STEPS, STATE_NAMES
from .tasks import INSTRUCTIONS, SUITES, check_shared_start


@dataclass(frozen=True)
class MetaWorldConfig(EnvConfig):
    """Configuration of Meta-World; the defaults are those of configs/env/metaworld.yaml.

    goal_markers, shared_start: as of `envs.metaworld.env.MetaWorldEnv`. Raises UserError for a shared start of a task
    that has none.
    """

    name: str = "metaworld"
    cameras: list[str] = field(default_factory=lambda: ["corner2_table", "topview_table", "gripperPOV"])
    max_steps: int = MAX_EPISODE_STEPS
    goal_markers: bool = True
    shared_start: bool = False

    def __post_init__(self) -> None:
        if self.shared_start:
            check_shared_start(self.tasks)


def _make(env_cfg: MetaWorldConfig, task: str) -> Environment:
    from .env import MetaWorldEnv

    common = (env_cfg.cameras, env_cfg.image_size, env_cfg.render, env_cfg.max_steps)
    return MetaWorldEnv(task, *common, goal_markers=env_cfg.goal_markers, shared_start=env_cfg.shared_start)


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
