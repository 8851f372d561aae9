"""A task's world for the twin of the arm (`robot.twin.scene`), which moves it by servos in place of `SO101Env`."""

import mujoco
import numpy as np
from gymnasium.utils import seeding

from tinyvla.errors import UserError

from ..rendering import Eyes  # before anything that imports mujoco
from .simulation import Simulation
from .tasks import resolve_tasks


class TwinScene:
    """Arm, table, cube and disc as in `SO101Env`, drawn by the same cameras: front, top and wrist.

    Args:
        task: reach, pick-lift, pick-place or push.
        render: "fast" or "faithful", as of `SO101Env`.
    """

    def __init__(self, task: str = "pick-lift", render: str = "fast"):
        (task,) = resolve_tasks([task])
        self._simulation = Simulation(task, fine=render == "faithful")
        self.model, self.data = self._simulation.model, self._simulation.data
        self._eyes = Eyes(self.model, render == "fast")
        self.reset(0)

    def reset(self, seed: int, move_arm: bool = True) -> None:
        """Begin the episode that `SO101Env.reset(seed=seed)` begins. move_arm: False leaves the arm where it is."""
        self._simulation.reset(seeding.np_random(seed)[0], move_arm=move_arm)

    def success(self) -> bool:
        """Whether the task is done, as things are now."""
        return self._simulation.success()

    def draw(self, data: mujoco.MjData, camera: str, height: int, width: int) -> np.ndarray:
        """A picture, uint8 (height, width, 3); height and width are equal, as in training."""
        if height != width:
            raise UserError(f"the scene draws square pictures, not {width}x{height}; set width and height alike")
        return self._eyes.draw(data, camera, height)

    def close(self) -> None:
        self._eyes.close()
