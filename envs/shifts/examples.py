"""Example images of the axes, for reports."""

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from ..contract import EnvConfig
from ..registry import instruction_of, make_env
from .axes import Shift, with_shift
from .shifted_env import ShiftedEnv


class Example(NamedTuple):
    """Start of an episode: an image, uint8 (256, 256, 3), and the instruction."""

    image: np.ndarray
    instruction: str


def example_frames(
    env_cfg: EnvConfig, task: str, seed: int, axes: Iterable[str], severities: Iterable[int]
) -> dict[tuple[str, int], Example]:
    """First frame of an episode, by axis and severity; ("none", 0) is the one without a shift."""
    plain = replace(env_cfg, shift=None)
    env: Any = make_env(plain, task)
    env.reset(seed=seed)
    frames = {("none", 0): Example(env.render(), env.instruction)}
    severities = list(severities)
    for axis in axes:
        for severity in severities:
            instruct = partial(instruction_of, with_shift(plain, [axis], severity), task)
            shifted = ShiftedEnv(env, Shift((axis,), severity), instruct)
            shifted.reset(seed=seed)
            frames[axis, severity] = Example(shifted.render(), shifted.instruction)
            shifted.restore()
    env.close()
    return frames
