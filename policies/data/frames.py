"""A LeRobotDataset on disk, and its frames decoded once into memory-mapped arrays."""

import functools
import json
import math
import shutil
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

from ..image_size import ImageSizeStep, Size, camera_sizes
from .dataset_files import INFO, check_dataset_files, fingerprint, name_image_axes

_SPAN = 64  # frames that are decoded together, fewer if they are large
_PATIENCE = 300  # seconds for a span, after which a decoder hangs: damaged videos can have that effect
_MAX_PIXELS = 20 << 20  # of all frames of a span; a process needs 30 bytes for each


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
    dataset: LeRobotDataset,
    workers: int,
    largest: tuple[int, int] | None = None,
    image_step: ImageSizeStep | None = None,
) -> dict[str, np.ndarray]:
    """Every camera's frames, uint8 (N, 3, H, W), memory-mapped (copy on write) from files beside the dataset.

    The first call writes the files, with `workers` processes, and first says how large they will be; they are complete
    or absent. A batch then costs a copy of its bytes, whether the dataset holds images or videos.

    Args:
        dataset: its images or videos are decoded.
        workers: number of processes.
        largest: height and width that frames with more pixels are resized to, for a policy that would do it itself, so
            that a camera of 640x480 pixels needs no more disk than the policy sees; None: as the camera's.
        image_step: of the policy's pre-processor, which then has nothing to do on the cached frames; `largest` is
            without effect.

    Raises UserError if frames cannot be decoded, or the disk has no room for them.
    """
    recorded = camera_sizes(dataset.meta.features)
    sides, kind = _sides(recorded, largest), "" if largest is None else "-{}x{}".format(*largest)
    if image_step is not None:
        sides, kind = dict.fromkeys(recorded, image_step.size), "-{}x{}-{}".format(*image_step.size, image_step.fit)
    folder = dataset.root.parent / "frames" / f"{dataset.root.name}{kind if sides != recorded else ''}"
    stamp = {"frames": len(dataset), "dataset": fingerprint(dataset.root), "cameras": dataset.meta.camera_keys}

    def decode(empty: Path) -> None:
        _announce(len(dataset), sides, folder)
        _decode(_Spans(dataset, sides, image_step), len(dataset), empty, workers)
        (empty / "stamp.json").write_text(json.dumps(stamp))

    try:
        fill_folder(folder, functools.partial(_is_complete, folder, stamp, sides), decode)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise UserError(
            f"the frames of {dataset.root} cannot be decoded ({one_line(error)}); free disk space if it is full, "
            "else delete that folder and collect again"
        ) from error
    return {key: np.load(folder / f"{key}.npy", mmap_mode="c") for key in dataset.meta.camera_keys}


def _sides(recorded: Mapping[str, Size], largest: Size | None) -> dict[str, Size]:
    """Height and width of every camera's cached frames, from those of the recorded ones."""
    if largest is None:
        return dict(recorded)
    return {key: largest if math.prod(size) > math.prod(largest) else size for key, size in recorded.items()}


def _announce(count: int, sides: Mapping[str, Size], folder: Path) -> None:
    """Say how much room the frames need on the disk. Raises UserError if there is less."""
    needed = count * sum(3 * height * width for height, width in sides.values())
    print(f"frames: {len(sides)} cameras, {count} frames, {needed / 1e6:.0f} MB in {folder}", flush=True)
    place = next(parent for parent in folder.parents if parent.exists())
    if (free := shutil.disk_usage(place).free) < needed:
        raise UserError(
            f"the frames need {needed / 1e9:.1f} GB and {place} has {free / 1e9:.1f} GB free; free some space, train "
            "on fewer cameras or episodes (dataset.cameras, dataset.episodes), or set a smaller dataset.image_size"
        )


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

    def __init__(self, dataset: LeRobotDataset, sides: Mapping[str, Size], image_step: ImageSizeStep | None):
        self.sides, self.image_step = sides, image_step
        pixels = sum(math.prod(size) for size in camera_sizes(dataset.meta.features).values())
        span = max(1, min(_SPAN, _MAX_PIXELS // max(pixels, 1)))
        times = [i / dataset.fps for i in range(span)]
        self.reader = open_dataset(dataset.root, dict.fromkeys(dataset.meta.camera_keys, times))
        bounds = zip(*(dataset.meta.episodes[key] for key in ("dataset_from_index", "dataset_to_index")), strict=True)
        self.spans = [(start, min(start + span, end)) for first, end in bounds for start in range(first, end, span)]

    def __len__(self) -> int:
        return len(self.spans)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        start, end = self.spans[index]
        item = self.reader[start]
        frames = {key: item[key][: end - start] for key in self.sides}
        if self.image_step is None:
            frames = {key: resize(images, self.sides[key]) for key, images in frames.items()}
        images = {key: images.mul(255).round().byte() for key, images in frames.items()}
        return images if self.image_step is None else self.image_step.observation(images)


def _decode(spans: _Spans, count: int, folder: Path, workers: int) -> None:
    loader = DataLoader(spans, batch_size=None, num_workers=workers, timeout=_PATIENCE if workers else 0)
    files: dict[str, BinaryIO] = {}
    with ExitStack() as opened, tqdm(total=count, desc="decoding frames", unit="frame") as bar:
        for span in loader:
            for key, frames in span.items():
                if key not in files:
                    files[key] = opened.enter_context((folder / f"{key}.npy").open("wb"))
                    shape = (count, *frames.shape[1:])
                    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                    np.lib.format.write_array_header_1_0(files[key], header)
                # Written, not mapped: on a full disk a write raises an error, a mapped page crashes the process.
                files[key].write(frames.numpy().tobytes())
            bar.update(len(frames))
