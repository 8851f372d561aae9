"""Sets of labelled images on disk: drawn once by worker processes, in blocks, then memory-mapped."""

import json
import shutil
import zlib
from collections.abc import Iterator
from concurrent.futures import as_completed
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
from tqdm import tqdm

from tinyvla.errors import UserError
from tinyvla.files import alone_in, discard, write_whole
from tinyvla.untrusted import check_links, inside, read_json_object

from ..workers import clear_disk_errors, count_workers, worker_pool
from .image_generator import ImageGenerator
from .splits import SPLITS, Split, image_seed

if TYPE_CHECKING:  # workers that draw images do not need torch
    from tinyvla.frontends.training import SceneSettings

VERSION = 4  # of the images; part of the folder's name
BLOCK = 32  # images that are drawn, checked and stored together
_ATTEMPTS = 3  # to read images, which are drawn again where they are damaged
SMALLEST, LARGEST = 32, 1024  # pixels of a side


class _Array(NamedTuple):
    """A file of a set: data type and channels of the values per pixel."""

    dtype: type[np.generic]
    channels: tuple[int, ...] = ()

    def shape(self, size: int) -> tuple[int, ...]:
        return (size, size, *self.channels)

    def bytes(self, size: int) -> int:
        return int(np.prod(self.shape(size))) * np.dtype(self.dtype).itemsize


_ARRAYS = {
    "table": {"images": _Array(np.uint8, (3,)), "instances": _Array(np.uint8), "depth": _Array(np.float16)},
    "room": {"images": _Array(np.uint8, (3,)), "instances": _Array(np.uint8)},
}


class ImageSet(NamedTuple):
    """A set of images: the values that its images depend on."""

    kind: str
    split: Split
    image_size: int
    seed: int

    @property
    def arrays(self) -> dict[str, _Array]:
        return _ARRAYS[self.kind]

    def folder(self, data_dir: Path) -> Path:
        name = f"{self.kind}-{self.split}-{self.image_size}px-seed{self.seed}-v{VERSION}"
        return data_dir / "scenes" / name


class Block(NamedTuple):
    """Images that are stored together: arrays by name, (32, ...) each, and labels."""

    arrays: dict[str, np.ndarray]
    labels: list[dict[str, Any]]


class LabelledImages:
    """Labelled images, S pixels per side.

    images: uint8 (N, S, S, 3). labels: a dict per image. instances: uint8 (N, S, S); of tables 0 is table and
    background and i is the label's objects[i - 1], of rooms 1 is the person. depth: float16 (N, S, S), metres along the
    camera's axis, None for rooms. All arrays are mapped from files, read-only.
    """

    def __init__(
        self, images: np.ndarray, labels: list[dict[str, Any]], instances: np.ndarray, depth: np.ndarray | None
    ):
        self.images, self.labels, self.instances, self.depth = images, labels, instances, depth

    def __len__(self) -> int:
        return len(self.labels)


def open_image_splits(
    scenes: "SceneSettings", seed: int = 0, data_dir: Path = Path("data"), workers: int | str | None = "auto"
) -> dict[str, LabelledImages]:
    """Labelled images of every split for the settings of a vision task; missing images are generated."""
    counts = {"train": scenes.train, "validation": scenes.validation, "test": scenes.test}
    return {
        split: open_labelled_images(scenes.kind, split, count, scenes.image_size, seed, data_dir, workers)
        for split, count in counts.items()
    }


def open_labelled_images(
    kind: str,
    split: str,
    count: int = 2000,
    image_size: int = 128,
    seed: int = 0,
    data_dir: Path = Path("data"),
    workers: int | str | None = "auto",
) -> LabelledImages:
    """Open the first `count` images of a set; images that are missing in data_dir are drawn first.

    An image is a pure function of kind, split, seed, its index and image_size. Splits share no seed, object mesh or
    texture.

    Labels of tables: "caption", "captions" (several wordings), "seed", and "objects", a list of dicts: "name" (unique),
    "category", "colour", "box" (half-open, [x0, y0, x1, y1] pixels), "pixels" (visible), and, where one is clear,
    "relation" ("left of the blue bowl"). Labels of rooms have Wake Vision's columns: "person" (0 or 1),
    "distance" ("near", "mid", "far"), "lighting" ("dark", "normal", "bright"), "depiction" ("none", "person",
    "non_person"), "build", "skin_tone" and "box"; without a person, distance, build, skin_tone and box are None; and
    "seed".

    Args:
        kind: "table" or "room".
        split: "train", "validation" or "test".
        image_size: S, from 32 to 1024.
        workers: processes that draw; "auto": one per core.

    Damaged images are drawn again. Raises UserError for wrong arguments and a full disk.
    """
    image_set = _checked(kind, split, count, image_size, seed)
    folder, blocks = image_set.folder(Path(data_dir)), range(-(-count // BLOCK))
    check_links(inside(folder.parent, folder.name))
    for _ in range(_ATTEMPTS):
        if _missing(folder, blocks):
            with clear_disk_errors(), alone_in(folder):  # another process may have drawn them in the meantime
                _draw(image_set, folder, _missing(folder, blocks), workers)
        labelled_blocks = {block: _read_labels(folder, block) for block in blocks}
        arrays, damaged = _map_arrays(image_set, folder, labelled_blocks)
        if not damaged:
            labels = [label for block in labelled_blocks.values() for label in block["labels"]][:count]
            arrays = {name: array[:count] for name, array in arrays.items()}
            return LabelledImages(arrays["images"], labels, arrays["instances"], arrays.get("depth"))
        for block in damaged:
            discard(_label_file(folder, block))
    raise UserError(f"the images in {folder} are damaged again after they were drawn; point data_dir at another disk")


def _checked(kind: str, split: str, count: int, image_size: int, seed: int) -> ImageSet:
    if kind not in _ARRAYS:
        raise UserError(f"there is no kind {kind!r} of scenes; use one of {', '.join(_ARRAYS)}")
    if split not in SPLITS:
        raise UserError(f"there is no split {split!r} of scenes; use one of {', '.join(SPLITS)}")
    if not isinstance(count, int) or count < 1:
        raise UserError(f"count is {count!r}; ask for at least 1 image")
    if not isinstance(image_size, int) or not SMALLEST <= image_size <= LARGEST:
        raise UserError(f"image_size is {image_size!r}; use {SMALLEST} to {LARGEST} pixels")
    image_seed(split, seed, count - 1)
    return ImageSet(kind, cast(Split, split), image_size, seed)


def _label_file(folder: Path, block: int) -> Path:
    return folder / "labels" / f"{block:06d}.json"


def _missing(folder: Path, blocks: range) -> list[int]:
    return [block for block in blocks if not _label_file(folder, block).exists()]


def _draw(image_set: ImageSet, folder: Path, missing: list[int], workers: int | str | None) -> None:
    if not missing:
        return
    _check_disk(
        folder, len(missing) * BLOCK * sum(array.bytes(image_set.image_size) for array in image_set.arrays.values())
    )
    number = min(count_workers(workers), len(missing))
    with tqdm(total=len(missing) * BLOCK, desc=f"drawing {image_set.kind}s", unit="image", delay=2) as bar:
        for block, drawn in _in_workers(image_set, missing, number) if number > 1 else _in_process(image_set, missing):
            _store(image_set, folder, block, drawn)
            bar.update(BLOCK)


def _in_workers(image_set: ImageSet, missing: list[int], number: int) -> Iterator[tuple[int, Block]]:
    with worker_pool(number) as pool:
        futures = {pool.submit(draw_block, image_set, block): block for block in missing}
        for future in as_completed(futures):
            yield futures.pop(future), future.result()


def _in_process(image_set: ImageSet, missing: list[int]) -> Iterator[tuple[int, Block]]:
    with closing(make_generator(image_set.kind, image_set.split, image_set.image_size)) as generator:
        for block in missing:
            yield block, _images(generator, image_set, block)


def make_generator(kind: str, split: Split, image_size: int) -> ImageGenerator:
    """Generator of a split's images of a kind; `close()` frees its GL context."""
    from .room_generator import RoomGenerator
    from .table_generator import TableGenerator

    return {"table": TableGenerator, "room": RoomGenerator}[kind](split, image_size)


_cached_generator = cache(make_generator)  # one per worker process


def draw_block(image_set: ImageSet, block: int) -> Block:
    """Draw 32 images of the set, in a worker."""
    return _images(_cached_generator(image_set.kind, image_set.split, image_set.image_size), image_set, block)


def _images(generator: ImageGenerator, image_set: ImageSet, block: int) -> Block:
    seeds = [image_seed(image_set.split, image_set.seed, block * BLOCK + i) for i in range(BLOCK)]
    drawn = [generator.generate(np.random.default_rng(seed)) for seed in seeds]
    arrays = {name: np.stack([image.arrays[name] for image in drawn]) for name in image_set.arrays}
    return Block(arrays, [image.label | {"seed": seed} for image, seed in zip(drawn, seeds, strict=True)])


def _store(image_set: ImageSet, folder: Path, block: int, drawn: Block) -> None:
    """Write the arrays of a block, then its labels, which mark the block as complete."""
    checksums = {}
    for name, array in image_set.arrays.items():
        content = drawn.arrays[name].astype(array.dtype, copy=False).tobytes()
        checksums[name] = zlib.crc32(content)
        path = folder / f"{name}.bin"
        if path.is_symlink() or not path.is_file():
            discard(path)  # a folder, a pipe or a link in its place
        path.touch()
        with path.open("r+b") as file:
            file.seek(block * BLOCK * array.bytes(image_set.image_size))
            file.write(content)
    if not (folder / "labels").is_dir():
        discard(folder / "labels")
    write_whole(_label_file(folder, block), json.dumps({"checksums": checksums, "labels": drawn.labels}))


def _read_labels(folder: Path, block: int) -> dict[str, Any]:
    """Checksums and labels of a block; both empty if its file is damaged."""
    try:
        content = read_json_object(_label_file(folder, block))
        if len(content["labels"]) == BLOCK and isinstance(content["checksums"], dict):
            return content
    except (UserError, TypeError, KeyError):
        pass
    return {"checksums": {}, "labels": []}


def _map_arrays(
    image_set: ImageSet, folder: Path, labelled_blocks: dict[int, dict[str, Any]]
) -> tuple[dict[str, np.ndarray], set[int]]:
    """Arrays by name, mapped from their files, and the blocks whose checksums differ."""
    arrays: dict[str, np.ndarray] = {}
    damaged: set[int] = set()
    for name, array in image_set.arrays.items():
        path, size = folder / f"{name}.bin", BLOCK * array.bytes(image_set.image_size)
        whole = min(path.stat().st_size // size, len(labelled_blocks)) if path.is_file() else 0
        damaged |= set(range(whole, len(labelled_blocks)))
        if not whole:
            continue
        mapped = np.memmap(path, array.dtype, "r", shape=(whole * BLOCK, *array.shape(image_set.image_size)))
        for block in range(whole):
            content = mapped[block * BLOCK : (block + 1) * BLOCK].data
            if zlib.crc32(content) != labelled_blocks[block]["checksums"].get(name):
                damaged.add(block)
        arrays[name] = mapped
    return arrays, damaged


def _check_disk(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"these images need {needed / 1e9:.2f} GB but {folder} has {free / 1e9:.2f} GB free; "
            "free some space, ask for fewer, or point data_dir at another disk"
        )
