"""The axes by name, how strong a shift is, and how a configuration asks for one. No simulator is needed here."""

import difflib
import zlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from tinyvla.errors import UserError

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
    "sensor_noise": "noise and blur in pictures, noise in proprioception",
}
PHYSICAL = ("object_size", "position")  # those that the physics sees; the others only what is seen, sensed or told
SEVERITIES = (1, 2, 3)


class Shift(NamedTuple):
    """What is different, and how much: `severity` 1 to 3 in evaluation, None for the range that training draws from.

    The strength of an axis, of which its amplitude is a multiple, is drawn for every episode from [0, 1) in training
    and from [s, s + 1/2) at severity s, so that training never sees what evaluation tests: its starts, its camera
    poses and so on are all milder. Besides, the seeds that everything is drawn from are disjoint (`envs.seeds`), and
    where there is no amplitude the sets are: paraphrases of instructions, shapes of distractors.
    """

    names: tuple[str, ...]
    severity: int | None

    def strength(self, axis: str, seed: int) -> float:
        """How strong an axis is in the episode with that seed."""
        draw = _rng(axis, seed, 0).random()
        return draw if self.severity is None else self.severity + draw / 2

    def rng(self, axis: str, seed: int) -> np.random.Generator:
        """Decides everything else about an axis; the same at all severities, so that they differ in strength alone."""
        return _rng(axis, seed, 1)


def _rng(axis: str, *numbers: int) -> np.random.Generator:
    return np.random.default_rng([zlib.crc32(axis.encode()), *numbers])


def with_shift(env_cfg: Mapping[str, Any], names: Iterable[str], severity: int) -> dict[str, Any]:
    """An `env` configuration whose environments are shifted; without names, as it is.

    Raises UserError for an axis that does not exist, naming the nearest, and for a severity other than 1, 2 or 3.
    """
    names = _in_order(names, "shift")
    if severity not in SEVERITIES:
        raise UserError(f"severity is {severity}; use {', '.join(map(str, SEVERITIES[:-1]))} or {SEVERITIES[-1]}")
    return dict(env_cfg) | ({"shift": {"names": names, "severity": severity}} if names else {})


def with_randomisation(env_cfg: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """An `env` configuration whose every episode draws its own randomisation; without names, as it is.

    Raises UserError for an axis that does not exist, naming the nearest.
    """
    names = _in_order(names, "randomise")
    return dict(env_cfg) | ({"shift": {"names": names, "severity": None}} if names else {})


def shift_of(env_cfg: Mapping[str, Any]) -> Shift | None:
    """What an `env` configuration shifts, or None."""
    shift = env_cfg.get("shift")
    return Shift(tuple(shift["names"]), shift["severity"]) if shift else None


def _in_order(names: Iterable[str], setting: str) -> list[str]:
    """Each axis once, in the order of AXES, in which they are applied: so the same set is always the same setting."""
    names = list(names or ())
    if unknown := [name for name in names if name not in AXES]:
        near = difflib.get_close_matches(str(unknown[0]), AXES, n=3, cutoff=0.4)
        guess = f"did you mean {' or '.join(near)}? There is" if near else "there is"
        raise UserError(f"unknown axis '{unknown[0]}' in {setting}; {guess}: {', '.join(AXES)}")
    return [axis for axis in AXES if axis in names]
