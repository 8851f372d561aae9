"""What simulators share: paraphrases, and checks of tasks, cameras, pictures and actions; each mistake is one line."""

import difflib
import functools
import string
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from gymnasium import spaces

from tinyvla.errors import UserError


def expand_tasks(
    names: str | Iterable[str], tasks: Iterable[str], suites: Mapping[str, list[str]], simulator: str
) -> list[str]:
    """Task names in the order given, suites expanded, each once. Unknown names raise a UserError with the nearest."""
    tasks, chosen = list(tasks), list[str]()
    example = next((task for task in tasks if task.startswith("reach")), tasks[0])
    for name in [names] if isinstance(names, str) else names:
        if name not in suites and name not in tasks:
            near = difflib.get_close_matches(name, [*suites, *tasks], n=3, cutoff=0.4) or [*suites, example]
            raise UserError(
                f"unknown {simulator} task or suite '{name}' in env.tasks; did you mean {' or '.join(near)}?"
            )
        chosen += [task for task in suites.get(name, [name]) if task not in chosen]
    if not chosen:
        raise UserError(f"env.tasks is empty; name a task ({example}) or a suite ({', '.join(list(suites)[:3])})")
    return chosen


@functools.cache
def _load(file: Path) -> dict[str, Any]:
    return yaml.safe_load(file.read_text())


def read_paraphrases(file: Path, task: str, severity: int | None) -> list[str]:
    """Other words for a task's instruction: those held out for a severity, or with None those to train on."""
    of_task = _load(file)[task]
    return of_task["training"] if severity is None else of_task["held_out"][severity]


def check_images(cameras: Sequence[str], known: Sequence[str], image_size: int, render: str, simulator: str) -> None:
    """Raise UserError unless there are cameras, all known, pictures of 8 to 2048 pixels, and a way to draw them."""
    if unknown := [camera for camera in cameras if camera not in known]:
        raise UserError(f"unknown camera {unknown[0]!r} in env.cameras; {simulator} has {', '.join(known)}")
    if not cameras:
        raise UserError(f"env.cameras is empty; name one or more of {', '.join(known)}")
    if render not in ("fast", "faithful"):
        raise UserError(f"env.render is {render!r}; use fast or faithful")
    if not 8 <= image_size <= 2048:
        raise UserError(f"env.image_size is {image_size}; use 8 to 2048 pixels")


def check_max_steps(max_steps: int, limit: int, simulator: str) -> None:
    """Raise UserError unless an episode may be that long."""
    if not 1 <= max_steps <= limit:
        raise UserError(f"env.max_steps is {max_steps}; {simulator} allows 1 to {limit}")


def observation_space(cameras: Sequence[str], image_size: int, state_dim: int) -> spaces.Dict:
    """Square pictures of the cameras, the proprioceptive state, and the instruction."""
    picture = spaces.Box(0, 255, (image_size, image_size, 3), np.uint8)
    state = spaces.Box(-np.inf, np.inf, (state_dim,), np.float32)
    return spaces.Dict(
        {f"observation.images.{camera}": picture for camera in cameras}
        | {"observation.state": state, "task": spaces.Text(256, charset=string.printable)}
    )


def checked_action(action: np.ndarray, size: int, simulator: str) -> np.ndarray:
    """An action as float32 (size,). Raises UserError if it has another shape or is not finite."""
    action = np.asarray(action, dtype=np.float32)
    if action.shape != (size,):
        raise UserError(f"{simulator} actions have shape ({size},), got {action.shape}; check the policy's action size")
    if not np.isfinite(action).all():
        raise UserError(f"the action {action} is not finite; the policy that made it needs another checkpoint")
    return action
