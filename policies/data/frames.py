"""A LeRobotDataset on disk, and its frames decoded once into memory-mapped arrays."""

import functools
import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from lerobot.datasets import LeRobotDataset
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from tinyvla.backbones import resize
from tinyvla.errors import UserError, one_line
from tinyvla.files import fill_folder
from tinyvla.untrusted import check_regular, inside, read_json

from .dataset_files import INFO, check_dataset_files, fingerprint, name_image_axes

_SPAN = 64  # frames that are decoded together


def open_dataset(root: Path, delta_timestamps: dict[str, list[float]] | None = None) -> LeRobotDataset:
    """The LeRobotDataset at `root`. Raises UserError if there is none, it cannot be read, or its files disagree."""
    check_dataset_files(root)
    try:
        with _one_report():
            dataset = LeRobotDataset(
                f"local/{root.name}", root=root, video_backend="pyav", delta_timestamps=delta_timestamps
            )
        name_image_axes(dataset.meta.features)
        rows, episodes = len(dataset.hf_dataset), len(dataset.meta.episodes)
    except Exception as error:  # damaged tables fail in as many ways as there are readers below
        reason = one_line(error.__cause__ or error)
        raise UserError(f"{root} is not a readable LeRobotDataset ({reason}); get a complete copy of it") from error
    if (rows, episodes) != (dataset.meta.total_frames, dataset.meta.total_episodes):
        raise UserError(
            f"{root} has {rows} frames in {episodes} episodes, and its {INFO} says {dataset.meta.total_frames} in "
            f"{dataset.meta.total_episodes}; get a complete copy of it"
        )
    return dataset


@contextmanager
def _one_report() -> Iterator[None]:
    """Silence what the library `datasets` writes about a table before it raises the same as an error."""
    from datasets.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def cache_frames(
    dataset: LeRobotDataset, workers: int, largest: tuple[int, int] | None = None
) -> dict[str, np.ndarray]:
    """Every camera's frames, uint8 (N, 3, H, W), memory-mapped (copy on write) from files beside the dataset.

    The first call writes the files, with `workers` processes; they are complete or absent. A batch then costs a copy of
    its bytes, whether the dataset holds images or videos.

    Args:
        dataset: its images or videos are decoded.
        workers: number of processes.
        largest: height and width that frames with more pixels are resized to, for a policy that would do it itself, so
            that a camera of 640x480 pixels needs no more disk than the policy sees; None: as the camera's.
    """
    sides = _sides(dataset, largest)
    is_resized = sides != _sides(dataset, None)
    name = dataset.root.name + ("-{}x{}".format(*largest) if largest and is_resized else "")
    folder = dataset.root.parent / "frames" / name
    stamp = {"frames": len(dataset), "dataset": fingerprint(dataset.root), "cameras": dataset.meta.camera_keys}

    def decode(empty: Path) -> None:
        _decode(dataset, sides, empty, workers)
        (empty / "stamp.json").write_text(json.dumps(stamp))

    try:
        fill_folder(folder, functools.partial(_is_complete, folder, stamp, sides), decode)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise UserError(
            f"the frames of {dataset.root} cannot be decoded ({one_line(error)}); free disk space if it is full, "
            "else delete that folder and collect again"
        ) from error
    return {key: np.load(folder / f"{key}.npy", mmap_mode="c") for key in dataset.meta.camera_keys}


def _sides(dataset: LeRobotDataset, largest: tuple[int, int] | None) -> dict[str, tuple[int, int]]:
    """Height and width of every camera's cached frames."""
    sides = {}
    for key in dataset.meta.camera_keys:
        height, width = (int(side) for side in dataset.meta.features[key]["shape"][:2])
        is_larger = largest is not None and height * width > largest[0] * largest[1]
        sides[key] = largest if largest is not None and is_larger else (height, width)
    return sides


def _is_complete(folder: Path, stamp: dict[str, Any], sides: dict[str, tuple[int, int]]) -> bool:
    """True if the folder has the frames that the stamp describes; anything else in it is replaced."""
    try:
        return read_json(inside(folder, "stamp.json")) == stamp and all(
            _is_array(inside(folder, f"{key}.npy"), (stamp["frames"], 3, *sides[key])) for key in stamp["cameras"]
        )
    except (UserError, OSError, ValueError, EOFError, SyntaxError):
        return False


def _is_array(file: Path, shape: tuple[int, ...]) -> bool:
    """True for a file of a uint8 array of this shape."""
    check_regular(file)
    array = np.load(file, mmap_mode="r")
    return array.shape == shape and array.dtype == np.uint8


class _Spans(torch.utils.data.Dataset):
    """Spans of consecutive frames of every camera, as bytes: in videos, seeking takes most of the time."""

    def __init__(self, dataset: LeRobotDataset, sides: Mapping[str, tuple[int, int]]):
        self.sides = sides
        times = [i / dataset.fps for i in range(_SPAN)]
        self.reader = open_dataset(dataset.root, dict.fromkeys(dataset.meta.camera_keys, times))
        bounds = zip(*(dataset.meta.episodes[key] for key in ("dataset_from_index", "dataset_to_index")), strict=True)
        self.spans = [(start, min(start + _SPAN, end)) for first, end in bounds for start in range(first, end, _SPAN)]

    def __len__(self) -> int:
        return len(self.spans)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        start, end = self.spans[index]
        item = self.reader[start]
        frames = {key: resize(item[key][: end - start], size) for key, size in self.sides.items()}
        return {key: images.mul(255).round().byte() for key, images in frames.items()}


def _decode(dataset: LeRobotDataset, sides: Mapping[str, tuple[int, int]], folder: Path, workers: int) -> None:
    loader = DataLoader(_Spans(dataset, sides), batch_size=None, num_workers=workers)
    files: dict[str, BinaryIO] = {}
    with ExitStack() as opened, tqdm(total=len(dataset), desc="decoding frames", unit="frame") as bar:
        for span in loader:
            for key, frames in span.items():
                if key not in files:
                    files[key] = opened.enter_context((folder / f"{key}.npy").open("wb"))
                    shape = (len(dataset), *frames.shape[1:])
                    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                    np.lib.format.write_array_header_1_0(files[key], header)
                # Written, not mapped: on a full disk a write raises an error, a mapped page crashes the process.
                files[key].write(frames.numpy().tobytes())
            bar.update(len(frames))
