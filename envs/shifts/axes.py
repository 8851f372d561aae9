"""The axes by name, the strength of a shift, and configurations with one. No simulator is loaded here."""

import zlib
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from tinyvla.errors import UserError, nearest_names

AXES: dict[str, str] = {
    "instruction": "other words for the same task",
    "object_colour": "other colours of the task's objects",
    "object_size": "the task's objects larger or smaller",
    "position": "starts outside the range of the demonstrations",
    "table_texture": "another table top",
    "background": "other floor, walls and sky",
    "lighting": "brightness, tint and direction of the light",
    "camera_pose": "displaced cameras",
    "distractors": "objects that are not part of the task",
    "sensor_noise": "noise and blur in images, noise in proprioception",
}
PHYSICAL = ("object_size", "position")  # change the physics; the others change observations or the instruction
SEVERITIES = (1, 2, 3)


class Shift(NamedTuple):
    """Shifted axes and their severity: 1 to 3 in evaluation, None for the range that training draws from.

    The amplitude of an axis is a multiple of its strength. The strength is drawn per episode from [0, 1) in training
    and from [s, s + 1/2) at severity s. Training is therefore milder than evaluation on every axis: starts, camera
    poses and so on. Evaluation also has its own seeds (`envs.seeds`), and where an axis has no amplitude its own sets:
    paraphrases of instructions, shapes of distractors.
    """

    names: tuple[str, ...]
    severity: int | None

    def strength(self, axis: str, seed: int) -> float:
        """Strength of an axis in the episode with that seed."""
        draw = _rng(axis, seed, 0).random()
        return draw if self.severity is None else self.severity + draw / 2

    def rng(self, axis: str, seed: int) -> np.random.Generator:
        """Generator for all other draws of an axis; the same at all severities, which so differ in strength alone."""
        return _rng(axis, seed, 1)


def _rng(axis: str, *numbers: int) -> np.random.Generator:
    return np.random.default_rng([zlib.crc32(axis.encode()), *numbers])


def with_shift[Config: Any](env_cfg: Config, names: Iterable[str], severity: int) -> Config:
    """An `env` configuration whose episodes are shifted; without names, the same configuration.

    Raises UserError for an unknown axis, naming the nearest, and for a severity other than 1, 2 or 3.
    """
    names = _in_order(names, "shift")
    if severity not in SEVERITIES:
        raise UserError(f"severity is {severity}; use {', '.join(map(str, SEVERITIES[:-1]))} or {SEVERITIES[-1]}")
    return replace(env_cfg, shift=Shift(tuple(names), severity)) if names else env_cfg


def with_randomisation[Config: Any](env_cfg: Config, names: Iterable[str]) -> Config:
    """An `env` configuration in which every episode draws its own randomisation; without names, the same configuration.

    Raises UserError for an unknown axis, naming the nearest.
    """
    names = _in_order(names, "randomise")
    return replace(env_cfg, shift=Shift(tuple(names), None)) if names else env_cfg


def _in_order(names: Iterable[str], setting: str) -> list[str]:
    """Each axis once, in the order of AXES, so that the same set is always the same setting."""
    names = list(names or ())
    if unknown := [name for name in names if name not in AXES]:
        near = nearest_names(unknown[0], AXES)
        guess = f"did you mean {' or '.join(near)}? There is" if near else "there is"
        raise UserError(f"unknown axis '{unknown[0]}' in {setting}; {guess}: {', '.join(AXES)}")
    if repeated := [name for name in names if names.count(name) > 1]:
        raise UserError(f"{setting} names {repeated[0]} twice; name each axis once")
    return [axis for axis in AXES if axis in names]
