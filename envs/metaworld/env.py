"""One Meta-World v3 task as a Gymnasium environment: camera images, proprioception and an instruction."""

import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from ..contract import Environment, SceneElements
from ..env_checks import check_images, check_max_steps, checked_action, observation_space
from ..rendering import CameraRenderers  # before metaworld, which imports mujoco
from . import ACTION_DIM, CAMERAS, CONTROL_HZ, MAX_EPISODE_STEPS, STATE_DIM
from .coarse_meshes import coarsen_arm
from .sawyer_scene import begin_shared, describe_scene, hide_goal_markers, share_start, start_outside
from .shared_starts import SHARED_STARTS
from .table_views import TABLE_VIEWS, aimed
from .tasks import GOAL_IS_MARKER, INSTRUCTIONS, check_shared_start, resolve_tasks

from metaworld.env_dict import ALL_V3_ENVIRONMENTS  # isort: skip
from metaworld.policies import ENV_POLICY_MAP  # isort: skip

# The experts warn about actions outside [-1, 1], which are clipped here on purpose.
warnings.filterwarnings("ignore", "Constant", module="metaworld.policies")

_UPSIDE_DOWN = {"corner", "corner2", "corner3", "corner4"}  # as mounted in Meta-World's model
_CORNER2_POSITION = (0.75, 0.075, 0.7)  # shows the whole table; LeRobot moves it likewise


class MetaWorldEnv(Environment):
    """A task with new random object and goal positions in every episode.

    Observation: observation.images.<camera> uint8 (S, S, 3), upright; observation.state float32 (4,), the hand's x, y,
    z in metres and the gripper's opening in [0, 1]; task, the instruction. Object and goal are not observed.
    Action: float32 (4,) in [-1, 1], the hand's displacement (1 is 1 cm) and the gripper's effort (1 closes).
    An episode ends with success (terminated) or after `max_steps` (truncated); see `tasks` for what success is.

    `step` is `apply` followed by `observe`. A policy that executes a chunk of actions needs no observation in between,
    and rendering takes most of a step's time.

    Args:
        task: one of the 50 tasks, such as drawer-open-v3.
        cameras: names out of CAMERAS.
        image_size: side of the square images in pixels.
        render: "fast", or "faithful" for Meta-World's default look.
        max_steps: at most 500, Meta-World's own limit.
        goal_markers: draw Meta-World's goal markers. False: only in tasks whose goal nothing else shows.
        shared_start: begin as the other task of the mechanism does, see `shared_starts`. False: Meta-World's own start.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": CONTROL_HZ}  # noqa: RUF012 (as gymnasium declares it)
    render_mode = "rgb_array"
    arm_actions = 3  # the last number of an action is the gripper's
    RENDER_SIZE = 256

    def __init__(
        self,
        task: str,
        cameras: Sequence[str] = ("corner2_table", "topview_table", "gripperPOV"),
        image_size: int = 96,
        render: str = "fast",
        max_steps: int = MAX_EPISODE_STEPS,
        goal_markers: bool = True,
        shared_start: bool = False,
    ):
        (self.task,) = resolve_tasks([task])
        self.instruction = INSTRUCTIONS[self.task]
        self.cameras = list(cameras)
        self.max_steps = max_steps
        check_images(self.cameras, CAMERAS, image_size, render, "Meta-World")
        check_max_steps(max_steps, MAX_EPISODE_STEPS, "Meta-World")
        if shared_start:
            check_shared_start(self.task)

        self._sim = ALL_V3_ENVIRONMENTS[self.task]()
        self._sim._partially_observable = False  # the scripted expert reads the goal; observations never do
        self._sim.__dict__.pop("sawyer_observation_space", None)  # a cached property that depends on the line above
        self._sim._freeze_rand_vec = False
        self._sim.seeded_rand_vec = True
        self._sim._set_task_called = True
        self._sim.model.camera("corner2").pos[:] = _CORNER2_POSITION
        self._start = SHARED_STARTS[self.task] if shared_start else None
        if self._start:
            share_start(self._sim, self._start)
        if not goal_markers and self.task not in GOAL_IS_MARKER:
            hide_goal_markers(self._sim.model)
        if render == "fast":
            coarsen_arm(self._sim.model)
        self.renderers = CameraRenderers(self._sim.model, render == "fast")
        self._image_size = image_size
        self._expert = ENV_POLICY_MAP[self.task]()
        self._full_state: np.ndarray | None = None
        self._steps = 0

        self.observation_space = observation_space(self.cameras, image_size, STATE_DIM)
        self.action_space = spaces.Box(-1.0, 1.0, (ACTION_DIM,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict, dict[str, Any]]:
        """Begin an episode. With a seed it is a pure function of (task, seed, options, actions).

        options: {"outside": metres}: object and goal start that far outside their usual range.
        """
        super().reset(seed=seed)
        self._sim.seed(int(self.np_random.integers(2**31)) if seed is None else seed)
        with start_outside(self._sim, (options or {}).get("outside", 0.0)):
            self._full_state, _ = self._sim.reset()
        if self._start:
            self._full_state = begin_shared(self._sim, self._start)
        for marker in self._sim._target_site_config:
            self._sim._set_pos_site(*marker)  # Meta-World itself places the goal marker only after a step
        self._steps = 0
        return self.observe(), {"success": False}

    def apply(self, action: np.ndarray) -> tuple[float, bool, bool, dict[str, Any]]:
        """Advance one control step without rendering: (reward, terminated, truncated, info).

        info holds `success` and `action`, the action as applied, clipped to [-1, 1].
        """
        action = checked_action(action, ACTION_DIM, "Meta-World")
        if self._full_state is None:
            raise gym.error.ResetNeeded("call reset before the first step")
        action = action.clip(-1.0, 1.0)
        self._full_state, reward, _, _, info = self._sim.step(action)
        self._steps += 1
        success = bool(info["success"])
        truncated = not success and self._steps >= self.max_steps
        return float(reward), success, truncated, {"success": success, "action": action}

    def observe(self) -> dict[str, Any]:
        """The current observation."""
        if self._full_state is None:
            raise gym.error.ResetNeeded("call reset before observe")
        images = {f"observation.images.{camera}": self._draw(camera, self._image_size) for camera in self.cameras}
        return images | {"observation.state": self._full_state[:STATE_DIM].astype(np.float32), "task": self.instruction}

    def expert_action(self) -> np.ndarray:
        """Action of Meta-World's scripted expert, float32 (4,), not clipped; it knows object and goal."""
        return np.asarray(self._expert.get_action(self._full_state), dtype=np.float32)

    def render(self) -> np.ndarray:
        """Image of the first camera for people, uint8 (256, 256, 3)."""
        return self._draw(self.cameras[0], self.RENDER_SIZE)

    @property
    def model(self) -> Any:
        """The MuJoCo model."""
        return self._sim.model

    @property
    def data(self) -> Any:
        """The MuJoCo data."""
        return self._sim.data

    def scene_elements(self) -> SceneElements:
        """Objects, table and background of the model."""
        return describe_scene(self.model)

    def close(self) -> None:
        self.renderers.close()
        self._sim.close()

    def _draw(self, camera: str, size: int) -> np.ndarray:
        view = TABLE_VIEWS.get(camera)
        name = view.camera if view else camera
        upside_down = name in _UPSIDE_DOWN
        with aimed(self.model, self.data, view, upside_down) if view else nullcontext():
            image = self.renderers.draw(self.data, name, size)
        return np.ascontiguousarray(image[::-1, ::-1]) if upside_down else image
