"""Labelled pictures to learn from: folders, scikit-learn's digits, and single objects cut out of table scenes."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.datasets import ImageFolder

from ..errors import UserError
from ..extras import needs_extra
from . import read_image

SPLITS = ("train", "validation", "test")
DIGITS, OBJECTS = "digits", "objects"
MIN_PIXELS = 40  # an object of which less is to be seen tells nothing
_MARGIN = 0.15  # of a box's side, around an object that is cut out


class LabelledPictures:
    """Pictures uint8 (3, H, W) by number, with their classes.

    Attributes:
        labels: (N,) int64, numbers of classes.
        classes: names.
        checksum: changes when a picture or a label does.
    """

    labels: np.ndarray
    classes: list[str]
    checksum: str

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Tensor:
        raise NotImplementedError


class PictureArray(LabelledPictures):
    """Pictures uint8 (N, H, W, 3) in memory."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, classes: Sequence[str]):
        self.images, self.labels, self.classes = images, labels.astype(np.int64), list(classes)
        digest = hashlib.blake2b(digest_size=16)
        for part in (np.ascontiguousarray(images), self.labels, repr((images.shape, self.classes)).encode()):
            digest.update(part)
        self.checksum = digest.hexdigest()

    def __getitem__(self, index: int) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(self.images[index].transpose(2, 0, 1)))


class PictureFolder(LabelledPictures):
    """Picture files in a folder a class, read when they are asked for. The checksum is of their names and sizes.

    Raises UserError if there are none, and when a picture is asked for that is damaged.
    """

    def __init__(self, root: Path):
        try:
            found = ImageFolder(root)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise UserError(
                f"{root} holds no pictures ({' '.join(str(error).split())[:99]}); give it a folder for every class"
            ) from error
        self.files = [Path(path) for path, _ in found.samples]
        self.labels, self.classes = np.array(found.targets, np.int64), found.classes
        known = [(file.relative_to(root).as_posix(), file.stat().st_size) for file in self.files]
        self.checksum = hashlib.blake2b(repr(known).encode(), digest_size=16).hexdigest()

    def __getitem__(self, index: int) -> Tensor:
        return torch.from_numpy(read_image(self.files[index]).transpose(2, 0, 1).copy())


def load_pictures(
    source: str, split: str, scenes: Any = None, classes: Sequence[str] | None = None
) -> LabelledPictures:
    """Labelled pictures of a split.

    Args:
        source: `digits`, `objects` or a folder with train/<class>/ and validation/<class>/.
        split: train, validation or test.
        scenes: for `objects`, table scenes of that split (see envs/scenes).
        classes: those of training, where it is another split.

    Raises UserError if there are none, or their classes are not those of training.
    """
    if source == DIGITS:
        return digits(split)
    if source == OBJECTS:
        return cut_objects(scenes, classes)
    pictures = PictureFolder(Path(source).expanduser() / split)
    if classes is not None and list(classes) != pictures.classes:
        raise UserError(f"{source}/{split} has other classes than {source}/train; give both the same folders")
    return pictures


def digits(split: str) -> PictureArray:
    """scikit-learn's 1,797 handwritten digits, 8 pixels a side: of every ten 6 for training, 2 and 2."""
    with needs_extra("frontends", "task.source=digits"):
        from sklearn.datasets import load_digits

    data = load_digits()
    part = np.random.default_rng(0).permutation(len(data.target)) % 10
    chosen = {"train": part < 6, "validation": (part >= 6) & (part < 8), "test": part >= 8}[split]
    grey = (data.images[chosen] * (255 / 16)).astype(np.uint8)
    return PictureArray(np.repeat(grey[..., None], 3, axis=3), data.target[chosen], [str(digit) for digit in range(10)])


def cut_objects(scenes: Any, classes: Sequence[str] | None = None, side: int = 48) -> PictureArray:
    """The objects of table scenes, each cut out as a square picture of `side` pixels, by category.

    Args:
        scenes: has images uint8 (N, S, S, 3) and labels, dicts with `objects`: category, box (pixels, half-open),
            pixels that are visible.
        classes: categories to keep; None: those with at least 10 objects.
        side: pixels.

    Raises UserError if there are fewer than two categories.
    """
    from torchvision.transforms.v2 import functional as F

    found = [
        (number, thing["category"], thing["box"])
        for number, label in enumerate(scenes.labels)
        for thing in label["objects"]
        if thing["pixels"] >= MIN_PIXELS
    ]
    if classes is None:
        counts = Counter(category for _, category, _ in found)
        classes = sorted(category for category, count in counts.items() if count >= 10)
    if len(classes) < 2:
        raise UserError("the scenes hold fewer than two categories of objects; raise task.scenes.train")
    kept = [each for each in found if each[1] in set(classes)]
    images = np.empty((len(kept), side, side, 3), np.uint8)
    for place, (number, _, box) in enumerate(kept):
        top, left, size = _square(box, scenes.images.shape[1])
        crop = np.array(scenes.images[number, top : top + size, left : left + size])
        resized = F.resize(torch.from_numpy(crop).permute(2, 0, 1), [side, side], antialias=True)
        images[place] = resized.permute(1, 2, 0).numpy()
    labels = np.array([list(classes).index(category) for _, category, _ in kept])
    return PictureArray(images, labels, classes)


def _square(box: Sequence[float], side: int) -> tuple[int, int, int]:
    """Top, left and side of the square around a box, with a margin, inside a picture of `side` pixels."""
    x0, y0, x1, y1 = box
    size = min(side, round((1 + 2 * _MARGIN) * max(x1 - x0, y1 - y0)))
    top, left = (round((low + high - size) / 2) for low, high in ((y0, y1), (x0, x1)))
    return min(max(top, 0), side - size), min(max(left, 0), side - size), size
