"""Training batches from a LeRobotDataset: frames decoded once into memory-mapped arrays, then gathered by index."""

import functools
import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from datasets.exceptions import DatasetsError
from lerobot.configs import PreTrainedConfig
from lerobot.datasets import LeRobotDataset
from lerobot.utils.constants import ACTION
from omegaconf import DictConfig
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from tinyvla.errors import UserError
from tinyvla.files import fill_folder

from .streaming import READING_TROUBLE, no_dataset

_RUN = 64  # frames that are decoded together


def open_dataset(root: Path, delta_timestamps: dict[str, list[float]] | None = None) -> LeRobotDataset:
    """The LeRobotDataset at `root`. Raises UserError if there is none or it cannot be read."""
    try:
        return LeRobotDataset(f"local/{root.name}", root=root, video_backend="pyav", delta_timestamps=delta_timestamps)
    except (OSError, ValueError, KeyError, DatasetsError) as error:
        reason = " ".join(str(error.__cause__ or error).split())[:200]
        raise UserError(f"{root} is no readable LeRobotDataset ({reason}); delete it and collect again") from error


def find_dataset(cfg: DictConfig, collected: Callable[[], Path]) -> Path | None:
    """Folder of the dataset to train on: the one that `cfg.dataset` names, fetched if need be, else `collected()`.

    None if it is to be streamed. Raises UserError if there is none of that name.
    """
    repo_id, root = cfg.dataset.repo_id, cfg.dataset.root
    if not (repo_id or root):
        return collected()
    if cfg.trainer.streaming:
        return None
    if root:
        return Path(root)
    try:
        return LeRobotDataset(repo_id, root=Path(cfg.data_dir) / repo_id.replace("/", "--")).root
    except READING_TROUBLE as error:
        raise no_dataset(repo_id, error) from error


def cache_frames(dataset: LeRobotDataset, workers: int) -> dict[str, np.ndarray]:
    """Every camera's frames, uint8 (N, 3, H, W), memory-mapped (copy on write) from files beside the dataset.

    The files are made on the first call, by `workers` processes, and put in place whole. A batch then costs a copy of
    its bytes, whether the dataset holds pictures or videos.
    """
    folder = dataset.root.parent / "frames" / dataset.root.name
    stamp = {"frames": len(dataset), "info": (dataset.root / "meta/info.json").stat().st_mtime_ns}

    def decode(empty: Path) -> None:
        _decode(dataset, empty, workers)
        (empty / "stamp.json").write_text(json.dumps(stamp))

    try:
        fill_folder(folder, functools.partial(_is_complete, folder, stamp), decode)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"the frames of {dataset.root} cannot be decoded ({reason}); free disk space if it is full, "
            "else delete that folder and collect again"
        ) from error
    return {key: np.load(folder / f"{key}.npy", mmap_mode="c") for key in dataset.meta.camera_keys}


def _is_complete(folder: Path, stamp: dict[str, int]) -> bool:
    file = folder / "stamp.json"
    return file.is_file() and json.loads(file.read_text()) == stamp


class _Runs(torch.utils.data.Dataset):
    """Runs of consecutive frames of every camera, as bytes. A video is read in runs: seeking takes nearly all time."""

    def __init__(self, dataset: LeRobotDataset):
        times = [i / dataset.fps for i in range(_RUN)]
        self.reader = open_dataset(dataset.root, dict.fromkeys(dataset.meta.camera_keys, times))
        bounds = zip(*(dataset.meta.episodes[key] for key in ("dataset_from_index", "dataset_to_index")), strict=True)
        self.spans = [(start, min(start + _RUN, end)) for first, end in bounds for start in range(first, end, _RUN)]

    def __len__(self) -> int:
        return len(self.spans)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        start, end = self.spans[index]
        item = self.reader[start]
        return {key: item[key][: end - start].mul(255).round().byte() for key in self.reader.meta.camera_keys}


def _decode(dataset: LeRobotDataset, folder: Path, workers: int) -> None:
    loader = DataLoader(_Runs(dataset), batch_size=None, num_workers=workers)
    files: dict[str, BinaryIO] = {}
    with ExitStack() as opened, tqdm(total=len(dataset), desc="decoding frames", unit="frame") as bar:
        for run in loader:
            for key, frames in run.items():
                if key not in files:
                    files[key] = opened.enter_context((folder / f"{key}.npy").open("wb"))
                    shape = (len(dataset), *frames.shape[1:])
                    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                    np.lib.format.write_array_header_1_0(files[key], header)
                # Written, not mapped: on a full disk a write is an error that can be told, a mapped page a crash.
                files[key].write(frames.numpy().tobytes())
            bar.update(len(frames))


class TrainingData:
    """Frames, states, actions and instructions of a dataset, with the time steps that a policy asks for.

    Args:
        dataset: the demonstrations.
        config: the policy's; its *_delta_indices say which time steps of each feature a sample has.
        frames: what `cache_frames` returns; features of a camera's frames may stand in for it.
    """

    def __init__(self, dataset: LeRobotDataset, config: PreTrainedConfig, frames: Mapping[str, np.ndarray | Tensor]):
        table = dataset.hf_dataset.with_format("numpy")
        self.cameras = {key: torch.as_tensor(frames[key]) for key in config.image_features}
        columns = [key for key in (*config.input_features, *config.output_features) if key not in self.cameras]
        self.columns = {key: torch.from_numpy(np.stack(table[key])).float() for key in columns}
        names = dataset.meta.tasks
        text = dict(zip(names["task_index"], names.index, strict=True))
        self.tasks = [text[index] for index in np.asarray(table["task_index"]).tolist()]
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
        # Diffusion Policy leaves out chunks that would be mostly padding.
        drop = getattr(config, "drop_n_last_frames", 0)
        self.eligible = torch.nonzero(torch.arange(len(self.last)) <= self.last - drop).flatten()
        if not len(self.eligible):
            raise UserError(
                "no demonstration is longer than the action chunk; lower policy.chunk_size or policy.horizon"
            )

    def __len__(self) -> int:
        return len(self.eligible)

    def batch(self, samples: Tensor) -> dict[str, Any]:
        """The samples with these numbers (0 <= number < len(self)), batched as LeRobot batches them.

        Images float32 (B, [T,] 3, H, W) in [0, 1]; other features float32 (B, [T,] D); <feature>_is_pad bool (B, T),
        True where a time step lies outside the episode and its nearest one stands in; task, B instructions.
        """
        frames = self.eligible[samples]
        batch: dict[str, Any] = {"task": [self.tasks[frame] for frame in frames.tolist()]}
        for key, deltas in self.deltas.items():
            index = frames
            if deltas is not None:
                wanted = frames[:, None] + torch.tensor(deltas)
                index = wanted.maximum(self.first[frames, None]).minimum(self.last[frames, None])
                batch[f"{key}_is_pad"] = index != wanted
            values = (self.cameras if key in self.cameras else self.columns)[key][index]
            batch[key] = values.float().div_(255) if values.dtype == torch.uint8 else values
        return batch


def sample_order(length: int, seed: int) -> Callable[[int, int], Tensor]:
    """Sample numbers by position in an endless stream of shuffled epochs.

    The returned function gives positions start .. start + count. It is a pure function of (length, seed, start, count),
    so a resumed run, or a process of many, needs only to know where it stands.
    """
    epochs: dict[int, Tensor] = {}

    def permutation(epoch: int) -> Tensor:
        if epoch not in epochs:
            for old in [e for e in epochs if e < epoch - 1]:
                del epochs[old]
            generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
            epochs[epoch] = torch.randperm(length, generator=generator)
        return epochs[epoch]

    def numbers(start: int, count: int) -> Tensor:
        parts = []
        while count > 0:
            epoch, offset = divmod(start, length)
            part = permutation(epoch)[offset : offset + count]
            parts.append(part)
            start, count = start + len(part), count - len(part)
        return torch.cat(parts)

    return numbers
