"""Environment with the shifts or the randomisation of a configuration."""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np

from tinyvla.errors import UserError

from ..contract import IMAGES, STATE, TASK, Environment
from .appearance import background, camera_pose, lighting, object_colour, table_texture
from .axes import Shift
from .distractors import place_distractors
from .model_edits import ModelEdits
from .object_size import object_size
from .sensor_noise import noisy_image, noisy_state

_MODEL_SHIFTS = {
    "object_colour": object_colour,
    "object_size": object_size,
    "table_texture": table_texture,
    "background": background,
    "lighting": lighting,
    "camera_pose": camera_pose,
}
_NEED_SCENE = {*_MODEL_SHIFTS, "distractors", "sensor_noise"}
_NEED_RENDERERS = {
    "object_size",
    "table_texture",
    "background",
    "distractors",
}  # upload meshes or textures, or add geoms
_OUTSIDE = 0.02  # metres beyond the usual range of starts, per unit of strength


class ShiftedEnv(gym.Wrapper):
    """Environment with other colours, lights, cameras and so on in every episode; see `AXES`.

    The perturbation of an episode is a pure function of axis, severity and the episode's seed. It is made at `reset`
    and undone at the next one, which restores the model exactly. Only object_size and position change the physics.

    Args:
        env: an environment of the contract (`envs.contract.Environment`).
        shift: axes and severity.
        instruct: instruction of the episode with a seed, for the axis instruction.

    Raises UserError if the environment does not support an axis.
    """

    def __init__(self, env: Any, shift: Shift, instruct: Callable[[int], str] | None = None):
        super().__init__(env)
        if "instruction" in shift.names and instruct is None:
            raise UserError("this environment has no paraphrases of its instructions; leave instruction out")
        self.shift = shift
        self._instruct = instruct
        self._env: Environment = env.unwrapped
        self._elements: Any = self._env.scene_elements()
        _check_support(self._env, self._elements, shift)
        self._edits = ModelEdits(self._env.model, self._env.renderers)
        self._seed = self._steps = 0

    @property
    def instruction(self) -> str:
        """Instruction of this episode."""
        if "instruction" in self.shift.names and self._instruct:
            return self._instruct(self._seed)
        return self._env.instruction

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict, dict[str, Any]]:
        """Begin an episode. Without a seed, one with a random seed."""
        self._seed = int(self.np_random.integers(2**31)) if seed is None else seed
        self._steps = 0
        self.restore()
        for axis, change in _MODEL_SHIFTS.items():
            if axis in self.shift.names:
                change(self._edits, self._elements, *self._draw(axis))
        self._edits.show()
        if "position" in self.shift.names:
            options = (options or {}) | {"outside": _OUTSIDE * self._draw("position")[0]}
        observation, info = self.env.reset(seed=self._seed, options=options)
        if "distractors" in self.shift.names:
            self._env.renderers.props += place_distractors(
                self._env.model,
                self._env.data,
                self._elements,
                *self._draw("distractors"),
                training=self.shift.severity is None,
            )
            observation = self._env.observe()  # the first one was rendered without them
        return self._sensed(observation), info

    def apply(self, action: np.ndarray) -> tuple[float, bool, bool, dict[str, Any]]:
        """As `Environment.apply`."""
        self._steps += 1
        return self._env.apply(action)

    def observe(self) -> dict[str, Any]:
        """Observation with the shifted sensors; the same until the next step."""
        return self._sensed(self._env.observe())

    def step(self, action: np.ndarray) -> tuple[dict, float, bool, bool, dict[str, Any]]:
        """Gymnasium's step: `apply`, then `observe`."""
        reward, terminated, truncated, info = self.apply(action)
        return self.observe(), reward, terminated, truncated, info

    def expert_action(self) -> np.ndarray:
        """Action of the environment's expert, whose sensors are not shifted."""
        return self._env.expert_action()

    def render(self) -> Any:
        """Image for people, with the shifted cameras."""
        image = self.env.render()
        if "sensor_noise" not in self.shift.names:
            return image
        strength, rng = self._sensor_draw()
        return noisy_image(np.asarray(image), strength, rng)

    def restore(self) -> None:
        """Undo all changes to the model; a reset has to follow."""
        self._edits.undo()
        if self._env.renderers is not None:
            self._env.renderers.props.clear()

    def close(self) -> None:
        self.restore()
        super().close()

    def _draw(self, axis: str) -> tuple[float, np.random.Generator]:
        return self.shift.strength(axis, self._seed), self.shift.rng(axis, self._seed)

    def _sensor_draw(self) -> tuple[float, np.random.Generator]:
        strength, rng = self._draw("sensor_noise")
        return strength, np.random.default_rng([self._steps, int(rng.integers(2**32))])

    def _sensed(self, observation: dict[str, Any]) -> dict[str, Any]:
        observation = observation | {TASK: self.instruction}
        if "sensor_noise" not in self.shift.names:
            return observation
        strength, rng = self._sensor_draw()
        observation[STATE] = noisy_state(observation[STATE], strength, self._elements.state_noise, rng)
        for key, value in observation.items():
            if key.startswith(IMAGES):
                observation[key] = noisy_image(value, strength, rng)
        return observation


def _check_support(env: Environment, elements: Any, shift: Shift) -> None:
    for axis in shift.names:
        if axis in _NEED_SCENE and elements is None:
            raise UserError(
                f"the axis {axis} needs scene_elements() of the environment; define it, or leave {axis} out"
            )
        if axis in _NEED_RENDERERS and env.renderers is None:
            raise UserError(
                f"the axis {axis} needs the environment's images to be drawn by its `renderers` "
                f"(envs.rendering.CameraRenderers); add them, or leave {axis} out"
            )
