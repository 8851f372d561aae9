"""Scene of the SO-101's tasks for the twin, whose servos move the arm in place of `SO101Env`, and its episodes.

The twin simulates in a process of its own. With the same seed, scene and judge have the same cube and disc.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import mujoco
import numpy as np
from gymnasium.utils import seeding

from tinyvla.arms.episode import Episode
from tinyvla.arms.simulated import SceneControl
from tinyvla.arms.so101 import SO101
from tinyvla.errors import UserError

from ..contract import EnvConfig
from ..rendering import CameraRenderers  # before anything that imports mujoco
from ..seeds import episode_seed
from . import CAMERAS
from .simulation import Simulation
from .tasks import INSTRUCTIONS, check_cube_sides, resolve_tasks


class TwinScene:
    """Arm, table, cube and disc of `SO101Env` with the cameras front, top and wrist: a `tinyvla.arms` `ArmScene`.

    The arm starts in its rest pose.

    Args:
        task: reach, pick-lift, pick-place or push.
        render: "fast" or "faithful", see `SO101Env`.
        furnish: adds more bodies, see `build_model`.
        cube_sides: see `Simulation`.
    """

    def __init__(
        self,
        task: str = "pick-lift",
        render: str = "fast",
        furnish: Callable[[mujoco.MjSpec], None] | None = None,
        cube_sides: Sequence[float] | None = None,
    ):
        (task,) = resolve_tasks([task])
        check_cube_sides(cube_sides)
        self.simulation = Simulation(task, render == "faithful", furnish, cube_sides)
        self.model, self.data = self.simulation.model, self.simulation.data
        self._renderers = CameraRenderers(self.model, render == "fast")
        self.reset(0)
        self.simulation.place_arm(np.array(SO101.rest_pose))

    def reset(self, seed: int, move_arm: bool = True) -> None:
        """Begin the episode of `SO101Env.reset(seed=seed)`. move_arm: False leaves the arm where it is."""
        self.simulation.reset(seeding.np_random(seed)[0], move_arm=move_arm)

    def success(self) -> bool:
        """Return whether the task is done in the current state."""
        return self.simulation.success()

    def draw(self, data: mujoco.MjData, camera: str, height: int, width: int) -> np.ndarray:
        """Image, uint8 (height, width, 3). Raises UserError for an unknown camera."""
        if camera not in CAMERAS:
            raise UserError(f"there is no camera {camera!r}; use {', '.join(CAMERAS)}")
        return self._renderers.draw(data, camera, (height, width) if height != width else height)

    def close(self) -> None:
        self._renderers.close()


class Judge:
    """Success of a task in a scene that another process simulates."""

    def __init__(self, task: str, cube_sides: Sequence[float] | None = None) -> None:
        self.simulation = Simulation(task, cube_sides=cube_sides)

    def begin(self, seed: int) -> np.ndarray:
        """Begin an episode; returns its start pose in `SO101Env`, (6,) in LeRobot's units."""
        self.simulation.reset(np.random.default_rng(seed))
        return self.simulation.state()

    def success(self, state: Mapping[str, Any]) -> bool:
        """Return whether the task is done. state: the scene's `qpos` and `qvel`, see `SceneControl.state`."""
        data = self.simulation.data
        data.qpos[:], data.qvel[:] = state["qpos"], state["qvel"]
        mujoco.mj_forward(self.simulation.model, data)
        return self.simulation.success()


def twin_episodes(env_cfg: EnvConfig, episodes: int, seed: int, rate_hz: float, twin: SceneControl) -> list[Episode]:
    """Episodes of `evaluate.py`, to be played on a twin: same scenes, start poses, instructions, length and success.

    Args:
        env_cfg: tasks, max_steps and cube_sides of the evaluation.
        episodes: per task.
        seed: of the evaluation.
        rate_hz: control steps per second.
        twin: simulates a `TwinScene`.

    Raises UserError for an unknown task, or if there are no episodes.
    """
    if episodes < 1:
        raise UserError(f"episodes is {episodes}; ask for one or more")
    listed = []
    for task in resolve_tasks(env_cfg.tasks):
        judge = Judge(task, getattr(env_cfg, "cube_sides", None))
        for index in range(episodes):
            scene_seed = episode_seed("evaluation", seed, index)
            episode = Episode(
                instruction=INSTRUCTIONS[task],
                seconds=(env_cfg.max_steps - 0.5) / rate_hz,  # the last tick begins half a tick before
                start_pose=judge.begin(scene_seed).tolist(),
                task=task,
                seed=scene_seed,
                lay_out=partial(_lay_out, judge, twin, scene_seed),
                success=partial(_is_done, judge, twin),
            )
            listed.append(episode)
    return listed


def _lay_out(judge: Judge, twin: SceneControl, seed: int) -> None:
    judge.begin(seed)
    twin.reset(seed, move_arm=False)


def _is_done(judge: Judge, twin: SceneControl) -> bool:
    return judge.success(twin.state())
