"""Recorded episodes of a dataset, as an offline evaluation compares a policy with them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lerobot.datasets import LeRobotDataset
from lerobot.utils.constants import ACTION, OBS_STATE

from tinyvla.errors import UserError

from ..data.batches import numbers_of
from ..data.units import convert_to_degrees


class Demonstrations:
    """States and actions of all frames of a dataset, and the observations of single ones.

    Args:
        dataset: the recordings.
        calibration: of the arm, for recordings in -100 to 100, which become degrees; see `convert_to_degrees`.

    Attributes:
        states, actions: (N, S) and (N, A), in the units of the dataset.
        names: of the numbers of `observation.state` and `action`; [] where the dataset has none.
        episode_of: (N,), number of every frame's episode.
        first, last: (N,), first and last frame of every frame's episode.

    Raises UserError for a dataset without states or actions.
    """

    def __init__(self, dataset: LeRobotDataset, calibration: Path | None = None):
        self.dataset, self.fps = dataset, float(dataset.meta.fps)
        features = dataset.meta.features
        if calibration is not None:
            convert_to_degrees(features, dataset.meta.stats, calibration)
        if missing := [key for key in (OBS_STATE, ACTION) if key not in features]:
            raise UserError(f"{dataset.root} has no {missing[0]}; a policy cannot be compared with it")
        self.states, self.actions = (numbers_of(dataset, key).numpy() for key in (OBS_STATE, ACTION))
        self.names = {key: _names(features[key]) for key in (OBS_STATE, ACTION)}
        starts, ends = (np.asarray(dataset.meta.episodes[key]) for key in ("dataset_from_index", "dataset_to_index"))
        lengths = ends - starts
        self.episode_of = np.repeat(np.arange(len(lengths)), lengths)
        self.first, self.last = np.repeat(starts, lengths), np.repeat(ends, lengths) - 1

    def frames(self, episode: int) -> np.ndarray:
        """Numbers of an episode's frames."""
        return np.flatnonzero(self.episode_of == episode)

    def following(self, frames: np.ndarray, horizon: int) -> np.ndarray:
        """Numbers (N, horizon) of N frames and those after them; at an episode's end, its last frame again."""
        return np.minimum(frames[:, None] + np.arange(horizon), self.last[frames][:, None])

    def recorded_chunks(self, frames: np.ndarray, horizon: int) -> np.ndarray:
        """Recorded actions (N, horizon, A) from N frames on; NaN after an episode's end."""
        chunks = self.actions[self.following(frames, horizon)].astype(np.float64)
        chunks[frames[:, None] + np.arange(horizon) > self.last[frames][:, None]] = np.nan
        return chunks

    def observation(self, frame: int, cameras: list[str]) -> dict[str, Any]:
        """Observation of a frame in the form of `policies.Runner`: images uint8 (H, W, 3), state and instruction."""
        item: Mapping[str, Any] = self.dataset[int(frame)]
        images = {key: _pixels(item[key]) for key in cameras}
        return images | {OBS_STATE: self.states[frame], "task": item["task"]}


def _names(feature: Mapping[str, Any]) -> list[str]:
    """Names of a feature's numbers; none if they are not a list of texts."""
    names = feature.get("names")
    return list(names) if isinstance(names, list) and all(isinstance(name, str) for name in names) else []


def _pixels(image: torch.Tensor) -> np.ndarray:
    """An image float (3, H, W) in [0, 1] as uint8 (H, W, 3)."""
    return image.mul(255).round().byte().permute(1, 2, 0).contiguous().numpy()
