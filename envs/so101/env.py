"""One task of the SO-101 as a Gymnasium environment: camera images, joint positions and an instruction."""

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from ..contract import Environment, SceneElements
from ..env_checks import check_images, check_max_steps, checked_action, observation_space
from ..rendering import CameraRenderers  # before anything that imports mujoco
from . import ACTION_DIM, CAMERAS, CONTROL_HZ, HIGH, LOW, MAX_EPISODE_STEPS, STATE_DIM
from .expert import Expert
from .scene_elements import describe_scene
from .simulation import Simulation
from .tasks import INSTRUCTIONS, resolve_tasks


class SO101Env(Environment):
    """One task of the SO-101 with a cube and a disc on a table.

    Observation: observation.images.<camera> uint8 (S, S, 3), upright; observation.state float32 (6,), joint positions
    in LeRobot's units (degrees, gripper 0 closed to 100 open); task, the instruction. The positions of cube and disc
    are not part of it.
    Action: float32 (6,), goal joint positions in the same units, which the servos hold until the next action.
    Randomisation: start pose of the arm, positions of cube and disc, yaw of the cube; see `Simulation.reset`.
    Success, which terminates the episode: per task, see the end of `simulation.py`. Truncation: after `max_steps`.

    `step` is `apply` followed by `observe`. Rendering takes most of the time of a step, and a policy that executes a
    chunk of actions needs no observation in between.

    Args:
        task: reach, pick-lift, pick-place or push.
        cameras: names out of front, top and wrist.
        image_size: side of the square images in pixels.
        render: "fast", or "faithful" with the original meshes, shadows and multisampling.
        max_steps: at most 600, which are 20 seconds.
        cube_sides: see `Simulation`.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": CONTROL_HZ}  # noqa: RUF012 (as gymnasium declares it)
    render_mode = "rgb_array"
    arm_actions = 5  # numbers of an action that move the arm; the last one moves the gripper
    RENDER_SIZE = 256

    def __init__(
        self,
        task: str,
        cameras: Sequence[str] = ("front", "wrist"),
        image_size: int = 96,
        render: str = "fast",
        max_steps: int = MAX_EPISODE_STEPS,
        cube_sides: Sequence[float] | None = None,
    ):
        (self.task,) = resolve_tasks([task])
        self.instruction = INSTRUCTIONS[self.task]
        self.cameras = list(cameras)
        self.max_steps = max_steps
        check_images(self.cameras, CAMERAS, image_size, render, "SO-101")
        check_max_steps(max_steps, MAX_EPISODE_STEPS, "SO-101")

        self.simulation = Simulation(self.task, fine=render == "faithful", cube_sides=cube_sides)
        self.renderers = CameraRenderers(self.model, render == "fast")
        self._image_size = image_size
        self._expert: Expert | None = None  # created on first use: evaluation does not need it
        self._steps = -1  # before the first reset

        self._limits = np.array(LOW, np.float32), np.array(HIGH, np.float32)
        self.observation_space = observation_space(self.cameras, image_size, STATE_DIM)
        self.action_space = spaces.Box(*self._limits, dtype=np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict, dict[str, Any]]:
        """Begin an episode. With a seed it is a pure function of (task, seed, options, actions).

        options: {"outside": metres} starts cube and disc that far outside of their area.
        """
        super().reset(seed=seed)
        self.simulation.reset(self.np_random, (options or {}).get("outside", 0.0))
        self._steps = 0
        return self.observe(), {"success": False}

    def apply(self, action: np.ndarray) -> tuple[float, bool, bool, dict[str, Any]]:
        """Advance one control step without rendering: (reward, terminated, truncated, info).

        The reward is 1 for success, else 0. info has `success` and `action`, the action clipped to the joints' limits.
        """
        action = checked_action(action, ACTION_DIM, "SO-101")
        if self._steps < 0:
            raise gym.error.ResetNeeded("call reset before the first step")
        action = action.clip(*self._limits)
        self.simulation.apply(action)
        self._steps += 1
        success = self.simulation.success()
        truncated = not success and self._steps >= self.max_steps
        return float(success), success, truncated, {"success": success, "action": action}

    def observe(self) -> dict[str, Any]:
        """The current observation."""
        if self._steps < 0:
            raise gym.error.ResetNeeded("call reset before looking")
        images = {
            f"observation.images.{camera}": self.renderers.draw(self.data, camera, self._image_size)
            for camera in self.cameras
        }
        return images | {"observation.state": self.simulation.state().astype(np.float32), "task": self.instruction}

    def expert_action(self) -> np.ndarray:
        """Action of the scripted expert, float32 (6,), not clipped; the expert knows where cube and disc are."""
        if self._expert is None:
            self._expert = Expert(self.simulation)
        return self._expert.action().astype(np.float32)

    def render(self) -> np.ndarray:
        """Image of the first camera for people, uint8 (256, 256, 3)."""
        return self.renderers.draw(self.data, self.cameras[0], self.RENDER_SIZE)

    @property
    def model(self) -> Any:
        """The MuJoCo model."""
        return self.simulation.model

    @property
    def data(self) -> Any:
        """The MuJoCo data."""
        return self.simulation.data

    def scene_elements(self) -> SceneElements:
        """Elements of the model that `envs.shifts` changes."""
        return describe_scene(self.model)

    def close(self) -> None:
        self.renderers.close()
