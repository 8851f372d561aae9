"""An environment that is not quite the one that the policy was trained in."""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np

from tinyvla.errors import UserError

from .appearance import background, camera_pose, lighting, object_colour, table_texture
from .axes import Shift
from .distractors import place_distractors
from .object_size import object_size
from .scene_elements import ModelEdits
from .sensor_noise import noisy_image, noisy_state

_MODEL_SHIFTS = {
    "object_colour": object_colour,
    "object_size": object_size,
    "table_texture": table_texture,
    "background": background,
    "lighting": lighting,
    "camera_pose": camera_pose,
}
_OUTSIDE = 0.02  # metres beyond the usual range of starts, a unit of strength
_PICTURES, _STATE = "observation.images.", "observation.state"


class ShiftedEnv(gym.Wrapper):
    """Another environment with other colours, light, cameras and so on in every episode; see `AXES`.

    An episode's perturbation is a pure function of axis, severity and the episode's seed. It is made at `reset` and
    undone at the next one, after which the model is what it was. Only object_size and position change the physics.

    The wrapped environment needs `model` and `data`, MuJoCo's; `renderers`, the `envs.rendering.CameraRenderers` that
    draw them; `scene_elements()`; and for the axis position a `reset` that heeds options={"outside": metres}.

    Args:
        env: the environment.
        shift: which axes, how strong.
        instruct: the instruction of the episode with a seed, for the axis instruction.
    """

    def __init__(self, env: Any, shift: Shift, instruct: Callable[[int], str] | None = None):
        super().__init__(env)
        if "instruction" in shift.names and instruct is None:
            raise UserError("there are no other words for this environment's instructions; leave instruction out")
        self.shift = shift
        self._instruct = instruct
        self._env = env.unwrapped
        self._scene = self._env.scene_elements()
        self._edits = ModelEdits(self._env.model, self._env.renderers)
        self._seed = self._steps = 0

    @property
    def instruction(self) -> str:
        """What the policy is told in this episode."""
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
                change(self._edits, self._scene, *self._draw(axis))
        self._edits.show()
        if "position" in self.shift.names:
            options = (options or {}) | {"outside": _OUTSIDE * self._draw("position")[0]}
        observation, info = self.env.reset(seed=self._seed, options=options)
        if "distractors" in self.shift.names:
            self._env.renderers.props += place_distractors(
                self._env.model,
                self._env.data,
                self._scene,
                *self._draw("distractors"),
                training=self.shift.severity is None,
            )
            observation = self._env.observe()  # the first one was without them
        return self._sensed(observation), info

    def apply(self, action: np.ndarray) -> tuple[float, bool, bool, dict[str, Any]]:
        """The environment's own."""
        self._steps += 1
        return self._env.apply(action)

    def observe(self) -> dict[str, Any]:
        """The current observation, as the shifted sensors tell it; looking twice shows the same."""
        return self._sensed(self._env.observe())

    def step(self, action: np.ndarray) -> tuple[dict, float, bool, bool, dict[str, Any]]:
        """Gymnasium's step: `apply`, then `observe`."""
        reward, terminated, truncated, info = self.apply(action)
        return self.observe(), reward, terminated, truncated, info

    def expert_action(self) -> np.ndarray:
        """What the environment's expert, whose sensors nothing disturbs, does here."""
        return self._env.expert_action()

    def render(self) -> Any:
        """A picture for people, as the shifted cameras show it."""
        picture = self.env.render()
        if "sensor_noise" not in self.shift.names:
            return picture
        strength, rng = self._sensor_draw()
        return noisy_image(np.asarray(picture), strength, rng)

    def restore(self) -> None:
        """Make the model what it was before this wrapper changed it; a reset has to follow."""
        self._edits.undo()
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
        observation = observation | {"task": self.instruction}
        if "sensor_noise" not in self.shift.names:
            return observation
        strength, rng = self._sensor_draw()
        observation[_STATE] = noisy_state(observation[_STATE], strength, self._scene.state_noise, rng)
        for key, value in observation.items():
            if key.startswith(_PICTURES):
                observation[key] = noisy_image(value, strength, rng)
        return observation
