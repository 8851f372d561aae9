"""Spaces and checks of settings and actions, shared by the simulators; each mistake is one line."""

import string
from collections.abc import Sequence

import numpy as np
from gymnasium import spaces

from tinyvla.errors import UserError


def check_images(
    cameras: Sequence[str], known: Sequence[str] | None, image_size: int, render: str, simulator: str
) -> None:
    """Raise UserError unless all cameras are known, images have 8 to 2048 pixels, and render is fast or faithful.

    known: the simulator's cameras; None: any.
    """
    if known is not None and (unknown := [camera for camera in cameras if camera not in known]):
        raise UserError(f"unknown camera {unknown[0]!r} in env.cameras; {simulator} has {', '.join(known)}")
    if known is not None and not cameras:
        raise UserError(f"env.cameras is empty; name one or more of {', '.join(known)}")
    if repeated := [camera for camera in cameras if cameras.count(camera) > 1]:
        raise UserError(f"env.cameras names {repeated[0]} twice; name each camera once")
    if render not in ("fast", "faithful"):
        raise UserError(f"env.render is {render!r}; use fast or faithful")
    if not 8 <= image_size <= 2048:
        raise UserError(f"env.image_size is {image_size}; use 8 to 2048 pixels")


def check_max_steps(max_steps: int, limit: int | None, simulator: str) -> None:
    """Raise UserError unless 1 <= max_steps, and max_steps <= limit if there is a limit."""
    if not 1 <= max_steps <= (limit or max_steps):
        raise UserError(f"env.max_steps is {max_steps}; {simulator} allows 1 {f'to {limit}' if limit else 'or more'}")


def observation_space(cameras: Sequence[str], image_size: int, state_dim: int) -> spaces.Dict:
    """Square images of the cameras, the proprioceptive state, and the instruction."""
    image = spaces.Box(0, 255, (image_size, image_size, 3), np.uint8)
    state = spaces.Box(-np.inf, np.inf, (state_dim,), np.float32)
    return spaces.Dict(
        {f"observation.images.{camera}": image for camera in cameras}
        | {"observation.state": state, "task": spaces.Text(256, charset=string.printable)}
    )


def checked_action(action: np.ndarray, size: int, simulator: str) -> np.ndarray:
    """Action as float32 (size,). Raises UserError if it has another shape or is not finite."""
    action = np.asarray(action, dtype=np.float32)
    if action.shape != (size,):
        raise UserError(f"{simulator} actions have shape ({size},), got {action.shape}; check the policy's action size")
    if not np.isfinite(action).all():
        raise UserError(f"the action {action} is not finite; the policy that made it needs another checkpoint")
    return action
