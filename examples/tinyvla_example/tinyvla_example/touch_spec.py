"""The environment's entry in the registry. MuJoCo is loaded only when an environment is made."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from envs.contract import Embodiment, EnvConfig, EnvironmentSpec, SceneElements


@dataclass(frozen=True)
class TouchConfig(EnvConfig):
    """Settings of `env=touch`."""

    name: str = "touch"
    cameras: list[str] = field(default_factory=lambda: ["top"])
    max_steps: int = 80


def _make(env_cfg: EnvConfig, task: str) -> Any:
    from .touch_env import TouchEnv

    return TouchEnv(task.removeprefix("touch-"), env_cfg.image_size)


def _expert(env: Any) -> np.ndarray:
    from .touch_env import expert_action

    return expert_action(env)


def _scene_elements(model: Any) -> SceneElements:
    """Parts of the scene that shifts change: colours of the discs, light, camera, sensors."""
    return SceneElements(
        objects=(model.body("red").id, model.body("blue").id),
        table=(model.geom("table").id,),
        background=(model.geom("floor").id,),
        surface=(-0.3, -0.3, 0.3, 0.3, 0.0),
        state_noise=np.full(2, 0.002),
    )


TOUCH = EnvironmentSpec(
    title="the touch example",
    embodiment=Embodiment(
        robot_type="fingertip",
        fps=20,
        state_names=["x", "y"],
        action_names=["velocity_x", "velocity_y"],
        action_low=(-1.0, -1.0),
        action_high=(1.0, 1.0),
        package="tinyvla-example",
    ),
    instructions={"touch-red": "touch the red disc", "touch-blue": "touch the blue disc"},
    make=_make,
    config=TouchConfig,
    expert=_expert,
    mujoco=lambda env: (env.model, env.data),
    scene_elements=_scene_elements,
)
