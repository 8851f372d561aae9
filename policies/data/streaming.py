"""Batches from a stream: LeRobot's streaming dataset, for datasets larger than the disk or on the hub."""

from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import torch
from datasets.exceptions import DatasetsError
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from lerobot.configs import PreTrainedConfig
from lerobot.datasets import LeRobotDatasetMetadata, StreamingLeRobotDataset
from lerobot.datasets.factory import resolve_delta_timestamps
from lerobot.datasets.video_utils import decode_video_frames
from torch.utils.data import default_collate

from tinyvla.errors import UserError, one_line

from ..image_size import ImageSizeStep
from .dataset_files import check_dataset_files, name_image_axes
from .settings import DatasetConfig

READ_ERRORS = (OSError, ValueError, KeyError, TypeError, HfHubHTTPError, HFValidationError, DatasetsError)


def open_metadata(repo_id: str | None, root: str | None) -> LeRobotDatasetMetadata:
    """Metadata of a LeRobotDataset. Raises UserError if there is none under that name or in that folder."""
    name = repo_id or f"local/{Path(str(root)).name}"
    try:
        if root is not None and not (Path(root) / "meta/info.json").is_file():
            raise FileNotFoundError(f"{root}/meta/info.json is missing")
        if root is not None:
            check_dataset_files(Path(root))
        meta = LeRobotDatasetMetadata(name, root)
        check_dataset_files(Path(meta.root), with_data=root is not None)
        name_image_axes(meta.features)
        return meta
    except UserError:
        raise
    except Exception as error:  # damaged tables fail in as many ways as there are readers below
        raise no_dataset(str(root or repo_id), error) from error


def open_all(dataset: DatasetConfig) -> list[LeRobotDatasetMetadata]:
    """Metadata of all datasets that settings name. Raises UserError as `open_metadata`."""
    if not dataset.roots:
        return [open_metadata(dataset.repo_id, None)]
    return [open_metadata(None, str(root)) for root in dataset.roots]


def no_dataset(name: str, error: Exception) -> UserError:
    """The error for a dataset that does not exist or cannot be read."""
    return UserError(
        f"there is no readable LeRobotDataset {name} ({type(error).__name__}: {one_line(error)}); "
        "give the id of one on the hub, dataset.repo_id=user/name, or its folder here, dataset.root=..."
    )


class _Stream(StreamingLeRobotDataset):
    """LeRobot's streaming dataset with two fixes for samples of one observation.

    A frame's time is that in its own video file, also with several files per dataset; and files on this disk are
    decoded with PyAV, which needs no FFmpeg on the system.
    """

    def _query_videos(self, query_timestamps: dict[str, list[float]], ep_idx: int) -> dict[str, torch.Tensor]:
        episode = self.meta.episodes[int(ep_idx)]
        start = episode["dataset_from_index"] / self.fps
        times = {
            key: [time - start + episode[f"videos/{key}/from_timestamp"] for time in timestamps]
            for key, timestamps in query_timestamps.items()
        }
        if not self.streaming_from_local:
            return super()._query_videos(times, ep_idx)
        return {
            key: decode_video_frames(
                self.root / self.meta.get_video_file_path(int(ep_idx), key), timestamps, self.tolerance_s, "pyav", True
            ).squeeze(0)
            for key, timestamps in times.items()
        }


def stream_batches(
    dataset: DatasetConfig,
    config: PreTrainedConfig,
    batch_size: int,
    seed: int,
    image_step: ImageSizeStep | None = None,
    held_out: Collection[int] = (),
) -> Callable[[], dict[str, Any]]:
    """Function that returns the next batch of an endless stream, in the form of `TrainingData.batch`.

    A stream has no random access: samples are drawn from a buffer of `dataset.shuffle_buffer` frames that is filled in
    the order of the dataset's files. The same seed gives the same stream. No sample is of an episode in `held_out`.

    Raises UserError if there is no such dataset, or the policy looks back in time.
    """
    if config.observation_delta_indices and any(config.observation_delta_indices):
        raise UserError(
            f"trainer.streaming=true gives one observation per sample and policy '{config.type}' needs several; "
            "set policy.n_obs_steps=1, choose another policy, or leave out trainer.streaming"
        )
    (meta,) = open_all(dataset)
    deltas = resolve_delta_timestamps(config, meta)
    deltas = {key: times for key, times in (deltas or {}).items() if key in config.output_features}
    try:
        stream = _Stream(
            meta.repo_id,
            next(iter(dataset.roots), None),
            delta_timestamps=deltas,
            buffer_size=min(dataset.shuffle_buffer, meta.total_frames),
            seed=seed,
            return_uint8=True,
        )
    except READ_ERRORS as error:
        raise _broken(meta, error) from error
    keys = [*config.input_features, *config.output_features]
    keys += [f"{key}_is_pad" for key in config.output_features]
    samples = (item for item in _endless(stream) if int(item["episode_index"]) not in held_out)

    def next_batch() -> dict[str, Any]:
        try:
            items = [next(samples) for _ in range(batch_size)]
            batch: dict[str, Any] = default_collate([{key: item[key] for key in keys} for item in items])
        except Exception as error:  # damaged files fail in as many ways as there are decoders below
            raise _broken(meta, error) from error
        if image_step is not None:
            batch |= image_step.observation({key: _as_bytes(batch[key]) for key in config.image_features})
        for key in config.image_features:
            if batch[key].dtype == torch.uint8:
                batch[key] = batch[key].float().div_(255)
        return batch | {"task": [item["task"] for item in items]}

    return next_batch


def _as_bytes(images: torch.Tensor) -> torch.Tensor:
    """Images as the frame cache has them, so that the two are fitted to the same values."""
    return images if images.dtype == torch.uint8 else images.mul(255).round().byte()


def _endless(dataset: StreamingLeRobotDataset) -> Iterator[dict[str, Any]]:
    while True:
        yield from dataset


def _broken(meta: LeRobotDatasetMetadata, error: Exception) -> UserError:
    return UserError(
        f"the dataset {meta.root} cannot be streamed ({type(error).__name__}: {one_line(error)}); "
        "check the network if it is on the hub, else whether its files are complete, then resume the run"
    )
