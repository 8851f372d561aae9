"""A LeRobotDataset on disk, and its frames decoded once into memory-mapped arrays."""

import functools
import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from datasets.exceptions import DatasetsError
from lerobot.datasets import LeRobotDataset
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
