"""A task's world for the twin of the arm (`robot.twin.scene`), which moves it by servos in place of `SO101Env`, and the
judge of what it does there.

Scene and judge may live in two processes: with one seed both lay out the same cube and disc.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

import mujoco
import numpy as np
from gymnasium.utils import seeding

from tinyvla.errors import UserError

from ..contract import EnvConfig
from ..rendering import CameraRenderers  # before anything that imports mujoco
from ..seeds import episode_seed
from .simulation import CAMERAS, Simulation
from .tasks import INSTRUCTIONS, resolve_tasks

SCENE = "envs.so101.twin.TwinScene"  # for robot.twin.scene
_FOLDED = (0.0, -98.0, 90.0, 60.0, 0.0, 5.0)  # LeRobot's units; a pose in which the arm stays without torque


class TwinScene:
    """Arm, table, cube and disc as in `SO101Env`, drawn by the same cameras: front, top and wrist.

    Args:
        task: reach, pick-lift, pick-place or push.
        render: "fast" or "faithful", as of `SO101Env`.
        furnish: adds what else is to be there, see `build_model`.
    """

    def __init__(
        self,
        task: str = "pick-lift",
        render: str = "fast",
        furnish: Callable[[mujoco.MjSpec], None] | None = None,
    ):
        (task,) = resolve_tasks([task])
        self.simulation = Simulation(task, render == "faithful", furnish)
        self.model, self.data = self.simulation.model, self.simulation.data
        self._renderers = CameraRenderers(self.model, render == "fast")
        self.reset(0)
        self.simulation.place_arm(np.array(_FOLDED))

    def reset(self, seed: int, move_arm: bool = True) -> None:
        """Begin the episode that `SO101Env.reset(seed=seed)` begins. move_arm: False leaves the arm where it is."""
        self.simulation.reset(seeding.np_random(seed)[0], move_arm=move_arm)

    def success(self) -> bool:
        """Whether the task is done, as things are now."""
        return self.simulation.success()

    def draw(self, data: mujoco.MjData, camera: str, height: int, width: int) -> np.ndarray:
        """A picture, uint8 (height, width, 3). Raises UserError for a camera or a shape that there is none of."""
        if camera not in CAMERAS:
            raise UserError(f"there is no camera {camera!r}; use {', '.join(CAMERAS)}")
        if height != width:
            raise UserError(f"the scene draws square pictures, not {width}x{height}; set width and height alike")
        return self._renderers.draw(data, camera, height)

    def close(self) -> None:
        self._renderers.close()


class Judge:
    """Says whether a task is done in a scene that another process simulates."""

    def __init__(self, task: str) -> None:
        self.simulation = Simulation(task)

    def begin(self, seed: int) -> np.ndarray:
        """An episode with this seed; returns the pose that it starts from in `SO101Env`, (6,) in LeRobot's units."""
        self.simulation.reset(np.random.default_rng(seed))
        return self.simulation.state()

    def success(self, state: Mapping[str, Any]) -> bool:
        """state: the scene's `qpos` and `qvel`, as `Twin.state` has them."""
        data = self.simulation.data
        data.qpos[:], data.qvel[:] = state["qpos"], state["qvel"]
        mujoco.mj_forward(self.simulation.model, data)
        return self.simulation.success()


class Twin(Protocol):
    """The other end of the wire to where a TwinScene is simulated: obeys `reset SEED`, and tells `Twin.state`."""

    def send(self, line: str) -> Any: ...

    def state(self) -> Mapping[str, Any]: ...


def wire_episodes(env_cfg: EnvConfig, episodes: int, seed: int, rate_hz: float, twin: Twin) -> list[dict[str, Any]]:
    """The episodes that `evaluate.py` would play, to be played on a twin, as fields of `robot_io.deployment.Episode`.

    Of each task the same scenes, start poses, instruction and length, and done when the simulation says so.
    Raises UserError for an unknown task, or no episodes.
    """
    if episodes < 1:
        raise UserError(f"episodes is {episodes}; ask for one or more")
    found = []
    for task in resolve_tasks(env_cfg.tasks):
        judge = Judge(task)
        for index in range(episodes):
            scene_seed = episode_seed("evaluation", seed, index)
            found.append(
                {
                    "task": task,
                    "instruction": INSTRUCTIONS[task],
                    "seed": scene_seed,
                    "seconds": (env_cfg.max_steps - 0.5) / rate_hz,  # the last tick begins half a tick before
                    "start_pose": judge.begin(scene_seed).tolist(),
                    "lay_out": partial(_lay_out, judge, twin, scene_seed),
                    "success": partial(_is_done, judge, twin),
                }
            )
    return found


def _lay_out(judge: Judge, twin: Twin, seed: int) -> None:
    judge.begin(seed)
    twin.send(f"reset {seed} stay")


def _is_done(judge: Judge, twin: Twin) -> bool:
    return judge.success(twin.state())
