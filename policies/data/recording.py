"""The numbers of a LeRobotDataset, read without LeRobot and without its images."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tinyvla.errors import UserError
from tinyvla.untrusted import read_json_object

from .dataset_files import INFO, STATS, check_dataset_files, name_image_axes, number_names
from .dataset_tables import read_columns, read_instructions, read_lengths

_INDICES = ("timestamp", "frame_index", "episode_index", "task_index")
_IMAGES = ("image", "video")
_MOST_NUMBERS = 4096  # of a feature; larger ones, such as maps of touch, are not looked at


@dataclass(frozen=True)
class Recording:
    """Numbers of N frames in E episodes.

    Args:
        root: folder of the dataset.
        info: content of its info.json.
        stats: its statistics by feature, empty if it has none.
        columns: values of observations and actions by feature, (N, D).
        indices: timestamp, frame_index, episode_index and task_index of every frame, (N,).
        instructions: by the number of the task.
        lengths: frames of every episode, (E,).
        numbers: of the episodes, (E,); those of all episodes of the dataset, from 0.
    """

    root: Path
    info: Mapping[str, Any]
    stats: Mapping[str, Any]
    columns: Mapping[str, np.ndarray]
    indices: Mapping[str, np.ndarray]
    instructions: Sequence[str]
    lengths: np.ndarray
    numbers: np.ndarray

    @property
    def features(self) -> Mapping[str, Mapping[str, Any]]:
        return self.info["features"]

    @property
    def fps(self) -> float:
        return self.info["fps"]

    @property
    def cameras(self) -> dict[str, Mapping[str, Any]]:
        """Features that are images, by key."""
        return {key: feature for key, feature in self.features.items() if feature["dtype"] in _IMAGES}

    @cached_property
    def starts(self) -> np.ndarray:
        """First frame of every episode, (E,)."""
        return np.cumsum(self.lengths) - self.lengths

    def names(self, key: str) -> list[str]:
        """Names of the numbers of a feature, as many as it has."""
        names, size = number_names(self.features[key]), self.columns[key].shape[-1]
        return names if len(names) == size else [f"number {i}" for i in range(size)]

    def place(self, frame: int) -> tuple[int, int]:
        """Number of the episode with a frame, and the frame's number in it."""
        episode = int(np.searchsorted(self.starts, frame, side="right")) - 1
        return int(self.numbers[episode]), frame - int(self.starts[episode])

    def episodes_with(self, frames: np.ndarray) -> list[int]:
        """Numbers of the episodes with some of the frames; `frames` is a mask, (N,)."""
        hits = np.add.reduceat(frames.astype(int), self.starts)
        return [int(number) for number in self.numbers[hits > 0]]

    def only(self, used: np.ndarray) -> "Recording":
        """The recording of some episodes; `used` is a mask, (E,)."""
        frames = np.repeat(used, self.lengths)
        return replace(
            self,
            columns={key: values[frames] for key, values in self.columns.items()},
            indices={key: values[frames] for key, values in self.indices.items()},
            lengths=self.lengths[used],
            numbers=self.numbers[used],
        )

    def episode(self, values: np.ndarray, episode: int) -> np.ndarray:
        """Rows of one episode."""
        return values[self.starts[episode] : self.starts[episode] + self.lengths[episode]]


def read_recording(root: Path) -> Recording:
    """Numbers of the dataset in a folder. Raises UserError if there is none, or it is damaged."""
    check_dataset_files(root)
    info = read_json_object(root / INFO)
    name_image_axes(info["features"])
    keys = [key for key, feature in info["features"].items() if _has_numbers(key, feature)]
    columns = read_columns(root, [*keys, *_INDICES])
    indices = {name: columns.pop(name).reshape(-1) for name in _INDICES}
    instructions = read_instructions(root)
    if indices["task_index"].max(initial=0) >= len(instructions):
        raise UserError(f"the data of {root} has a task that is not in its meta/tasks.parquet; get a complete copy")
    columns = {key: values[:, None] if values.ndim == 1 else values for key, values in columns.items()}
    stats = read_json_object(root / STATS) if (root / STATS).exists() else {}
    lengths = read_lengths(root)
    return Recording(root, info, stats, columns, indices, instructions, lengths, np.arange(len(lengths)))


def _has_numbers(key: str, feature: Mapping[str, Any]) -> bool:
    is_index = key in (*_INDICES, "index") or key.startswith("next.")
    is_number = feature["dtype"] not in (*_IMAGES, "string", "language", "bool")
    return not is_index and is_number and math.prod(feature["shape"]) <= _MOST_NUMBERS
