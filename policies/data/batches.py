"""Training batches: samples of a dataset, gathered by index."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from lerobot.configs import PreTrainedConfig
from lerobot.datasets import LeRobotDataset
from lerobot.utils.constants import ACTION, OBS_STATE
from torch import Tensor

from tinyvla.errors import UserError, one_line

from ..tinyvla.waypoints import WAYPOINTS, waypoints_of
from .units import in_degrees


class TrainingData:
    """Frames, states, actions and instructions of a dataset, at the time steps that a policy reads.

    Args:
        dataset: the demonstrations.
        config: the policy's; its *_delta_indices are the time steps of each feature of a sample.
        frames: of `cache_frames`; cached features may replace a camera's frames or be added.
        held_out: numbers of the episodes that no sample is of.
    """

    def __init__(
        self,
        dataset: LeRobotDataset,
        config: PreTrainedConfig,
        frames: Mapping[str, np.ndarray | Tensor],
        held_out: Sequence[int] = (),
    ):
        unused = set(dataset.meta.camera_keys) - set(config.image_features)
        self.cameras = {key: torch.as_tensor(frames[key]) for key in frames if key not in unused}
        columns = [key for key in (*config.input_features, *config.output_features) if key not in self.cameras]
        self.columns = {key: numbers_of(dataset, key) for key in columns}
        self.tasks = instructions_of(dataset)
        starts, ends = (
            torch.as_tensor(np.asarray(dataset.meta.episodes[key]))
            for key in ("dataset_from_index", "dataset_to_index")
        )
        lengths = ends - starts
        self.first, self.last = starts.repeat_interleave(lengths), ends.repeat_interleave(lengths) - 1
        self.deltas = {
            key: config.action_delta_indices if key == ACTION else config.observation_delta_indices
            for key in (*self.cameras, *self.columns)
        }
        self.waypoints: Tensor | None = None
        if getattr(config, "waypoint_weight", 0):
            states, actions = self.columns[OBS_STATE], self.columns[ACTION]
            self.waypoints = waypoints_of(states, actions, action_names(dataset.meta.features), self.last)
        # Diffusion Policy drops chunks that would be mostly padding.
        drop = getattr(config, "drop_n_last_frames", 0)
        eligible = torch.arange(len(self.last)) <= self.last - drop
        for episode in held_out:
            eligible[starts[episode] : ends[episode]] = False
        self.eligible = torch.nonzero(eligible).flatten()
        if not len(self.eligible):
            raise UserError(
                "no demonstration is longer than the action chunk; lower policy.chunk_size or policy.horizon"
            )

    def __len__(self) -> int:
        return len(self.eligible)

    def batch(self, samples: Tensor) -> dict[str, Any]:
        """Batch of the samples with these numbers (0 <= number < len(self)), in LeRobot's form.

        Images float32 (B, [T,] 3, H, W) in [0, 1]; other features float32 (B, [T,] D); <feature>_is_pad bool (B, T),
        True where a time step lies outside the episode and the nearest one replaces it; task, B instructions; and the
        waypoints of a policy that learns to predict them.
        """
        frames = self.eligible[samples]
        batch: dict[str, Any] = {"task": [self.tasks[frame] for frame in frames.tolist()]}
        for key, deltas in self.deltas.items():
            index = frames
            if deltas is not None:
                steps = frames[:, None] + torch.tensor(deltas)
                index = steps.maximum(self.first[frames, None]).minimum(self.last[frames, None])
                batch[f"{key}_is_pad"] = index != steps
            values = (self.cameras if key in self.cameras else self.columns)[key][index]
            batch[key] = values.float().div_(255) if values.dtype == torch.uint8 else values
        if self.waypoints is not None:
            batch[WAYPOINTS] = self.waypoints[frames]
        return batch


def action_names(features: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Names of the numbers of an action, as a dataset's features give them; none if they are not a list of texts."""
    names = features[ACTION].get("names")
    return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else []


def _column(dataset: LeRobotDataset, key: str) -> np.ndarray:
    """Values of a column of the data, (N, ...), without a pass over the rows, which would take minutes."""
    values = dataset.hf_dataset.select_columns([key]).with_format("arrow")[:].column(key).to_numpy()
    return np.stack(values) if values.dtype == object else values.copy()


def numbers_of(dataset: LeRobotDataset, key: str) -> Tensor:
    """A column of the data as float32 (N, ...). Raises UserError unless it has numbers of the feature's shape."""
    try:
        column = torch.from_numpy(_column(dataset, key)).float()
    except (TypeError, ValueError, KeyError) as error:  # values that are missing, of other types or sizes
        raise UserError(
            f"{key!r} in the data of {dataset.root} is not numbers of one size ({one_line(error, 80)}); get a complete "
            "copy of the dataset"
        ) from error
    shape = tuple(dataset.meta.features[key]["shape"])
    if column[0].numel() != math.prod(shape):
        raise UserError(f"{key!r} in the data of {dataset.root} is not of the shape {shape}; get a complete copy")
    return in_degrees(column.reshape(len(column), *shape), dataset.meta.features[key])


def instructions_of(dataset: LeRobotDataset) -> list[str]:
    """Instruction of every frame. Raises UserError for a frame without one."""
    names = dataset.meta.tasks
    text = dict(zip(names["task_index"], names.index, strict=True))
    indices = _column(dataset, "task_index").tolist()
    if unknown := set(indices) - text.keys():
        raise UserError(
            f"the data of {dataset.root} has the task {unknown.pop()}, which is not in its meta/tasks.parquet"
        )
    return [text[index] for index in indices]
