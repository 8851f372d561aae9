"""Baselines of an offline evaluation, which see no image: a policy that has learnt anything is better than they are."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from lerobot.utils.constants import ACTION, OBS_STATE

if TYPE_CHECKING:
    from .demonstrations import Demonstrations

HOLD, MEAN, NEAREST = "hold the present pose", "mean action", "nearest training state"
_MOST_FRAMES = 20_000  # that the nearest one is searched in


def baseline_chunks(
    demonstrations: "Demonstrations", frames: np.ndarray, horizon: int, trained: Sequence[int]
) -> dict[str, np.ndarray]:
    """Action chunks (N, horizon, A) of every baseline by name, for N frames.

    - the pose of the frame, held; where the numbers of state and action have the same names;
    - the mean action of the episodes that were trained on;
    - the actions that followed the nearest state of those episodes, all joints scaled by their standard deviation.

    Args:
        demonstrations: the dataset.
        frames: numbers of the N frames.
        horizon: actions per chunk.
        trained: numbers of the episodes that were trained on. An episode is never compared with itself.
    """
    states, actions, numbers = demonstrations.states, demonstrations.actions, demonstrations.episode_of
    known = np.flatnonzero(np.isin(numbers, list(trained)))
    chunks = {}
    if demonstrations.names[OBS_STATE] == demonstrations.names[ACTION] != []:
        chunks[HOLD] = np.repeat(states[frames][:, None], horizon, axis=1)
    if not len(known):
        return chunks
    chunks[MEAN] = np.broadcast_to(actions[known].mean(axis=0), (len(frames), horizon, actions.shape[1]))
    known = known[:: -(-len(known) // _MOST_FRAMES)]
    if len(set(numbers[known])) > 1 or not np.isin(numbers[frames], numbers[known]).any():
        nearest = [_nearest(states, numbers, frame, known) for frame in frames]
        chunks[NEAREST] = actions[demonstrations.following(np.array(nearest), horizon)]
    return chunks


def _nearest(states: np.ndarray, numbers: np.ndarray, frame: int, known: np.ndarray) -> int:
    """Frame of `known`, in another episode, whose state is nearest."""
    spread = states[known].std(axis=0)
    scale = np.where(spread > 0, spread, np.inf)  # a motionless joint has nothing to compare
    distances = np.square((states[known] - states[frame]) / scale).sum(axis=1)
    distances[numbers[known] == numbers[frame]] = np.inf
    return int(known[distances.argmin()])
