"""Interface between a simulated arm (the twin) and the scene that it stands in."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import mujoco
    import numpy as np


class ArmScene(Protocol):
    """A MuJoCo model with one arm, whose joints and position actuators have the names of its `ArmDescription`.

    A twin with cameras creates the scene twice: a second process calls `draw` and `close` of its own copy.
    """

    model: "mujoco.MjModel"
    data: "mujoco.MjData"

    def reset(self, seed: int, move_arm: bool = True) -> None:
        """Begin an episode. move_arm: False leaves the arm where it is."""

    def success(self) -> bool:
        """Return whether the task of the scene is done in the current state."""

    def draw(self, data: "mujoco.MjData", camera: str, height: int, width: int) -> "np.ndarray":
        """Image of a camera, uint8 (height, width, 3)."""

    def close(self) -> None:
        """Free the renderers of `draw`."""


# A class or a functools.partial of one: the twin's processes receive it by pickle.
SceneFactory = Callable[[], ArmScene]


class SceneControl(Protocol):
    """Control of a scene that another process simulates."""

    def reset(self, seed: int, move_arm: bool = True) -> Any:
        """Begin an episode of the scene. move_arm: False leaves the arm where it is."""

    def state(self) -> Mapping[str, Any]:
        """True state of the simulation, with the model's whole `qpos` and `qvel`."""
