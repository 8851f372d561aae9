"""Labelled images for classifiers: folders, scikit-learn's digits, and single objects cut out of table scenes."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.datasets import ImageFolder

from ..errors import UserError, one_line
from ..extras import needs_extra
from .images import read_image

DIGITS, OBJECTS = "digits", "objects"
MIN_PIXELS = 40  # visible pixels of an object that is cut out
_MARGIN = 0.15  # of a box's side, around an object that is cut out


class ClassificationImages:
    """Images uint8 (3, H, W) by index, with their classes.

    Attributes:
        labels: (N,) int64, indices of classes.
        classes: names.
        checksum: changes when an image or a label changes.
    """

    labels: np.ndarray
    classes: list[str]
    checksum: str

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Tensor:
        raise NotImplementedError


class ImagesInMemory(ClassificationImages):
    """Images uint8 (N, H, W, 3) in memory."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, classes: Sequence[str]):
        self.images, self.labels, self.classes = images, labels.astype(np.int64), list(classes)
        digest = hashlib.blake2b(digest_size=16)
        for data in (np.ascontiguousarray(images), self.labels, repr((images.shape, self.classes)).encode()):
            digest.update(data)
        self.checksum = digest.hexdigest()

    def __getitem__(self, index: int) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(self.images[index].transpose(2, 0, 1)))


class ImagesInFolders(ClassificationImages):
    """Image files in one folder per class, read on access. The checksum covers their names and sizes.

    Raises UserError if there are no images, and on access to a damaged one.
    """

    def __init__(self, root: Path):
        try:
            folder = ImageFolder(root)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise UserError(f"{root} holds no images ({one_line(error, 99)}); give it a folder per class") from error
        self.files = [Path(path) for path, _ in folder.samples]
        self.labels, self.classes = np.array(folder.targets, np.int64), folder.classes
        sizes = [(file.relative_to(root).as_posix(), file.stat().st_size) for file in self.files]
        self.checksum = hashlib.blake2b(repr(sizes).encode(), digest_size=16).hexdigest()

    def __getitem__(self, index: int) -> Tensor:
        return torch.from_numpy(read_image(self.files[index]).transpose(2, 0, 1).copy())


def check_source(source: str) -> None:
    """Raise UserError unless a source is `digits`, `objects` or a folder with train/ and validation/."""
    if source not in (DIGITS, OBJECTS) and not (Path(source).expanduser() / "train").is_dir():
        raise UserError(f"task.source={source} is not {DIGITS}, {OBJECTS} or a folder with train/<class>/; change it")


def load_classification_images(
    source: str, split: str, scenes: Any = None, classes: Sequence[str] | None = None
) -> ClassificationImages:
    """Labelled images of a split.

    Args:
        source: `digits`, `objects` or a folder with train/<class>/ and validation/<class>/.
        split: train, validation or test.
        scenes: for `objects`, table scenes of that split (see envs/scenes).
        classes: of the training split, for another split.

    Raises UserError if there are none, or if their classes are not those of the training split.
    """
    if source == DIGITS:
        return digits(split)
    if source == OBJECTS:
        return cut_objects(scenes, classes)
    images = ImagesInFolders(Path(source).expanduser() / split)
    if classes is not None and list(classes) != images.classes:
        raise UserError(f"{source}/{split} has other classes than {source}/train; give both the same folders")
    return images


def digits(split: str) -> ImagesInMemory:
    """scikit-learn's 1,797 handwritten digits of 8 pixels: 6 of every 10 for training, 2 and 2 for the others."""
    with needs_extra("frontends", "task.source=digits"):
        from sklearn.datasets import load_digits

    data = load_digits()
    tenth = np.random.default_rng(0).permutation(len(data.target)) % 10
    chosen = {"train": tenth < 6, "validation": (tenth >= 6) & (tenth < 8), "test": tenth >= 8}[split]
    grey = (data.images[chosen] * (255 / 16)).astype(np.uint8)
    rgb = np.repeat(grey[..., None], 3, axis=3)
    return ImagesInMemory(rgb, data.target[chosen], [str(digit) for digit in range(10)])


def cut_objects(scenes: Any, classes: Sequence[str] | None = None, side: int = 48) -> ImagesInMemory:
    """Objects of table scenes, each cut out as a square image and labelled with its category.

    Args:
        scenes: has images uint8 (N, S, S, 3) and labels, dicts with `objects`: category, box (pixels, half-open),
            visible pixels.
        classes: categories to use; None: those with at least 10 objects.
        side: of the images, in pixels.

    Raises UserError if there are fewer than two categories.
    """
    from torchvision.transforms.v2 import functional as F

    objects = [
        (number, thing["category"], thing["box"])
        for number, label in enumerate(scenes.labels)
        for thing in label["objects"]
        if thing["pixels"] >= MIN_PIXELS
    ]
    if classes is None:
        counts = Counter(category for _, category, _ in objects)
        classes = sorted(category for category, count in counts.items() if count >= 10)
    if len(classes) < 2:
        raise UserError("the scenes hold fewer than two categories of objects; raise task.scenes.train")
    objects = [entry for entry in objects if entry[1] in set(classes)]
    images = np.empty((len(objects), side, side, 3), np.uint8)
    for index, (number, _, box) in enumerate(objects):
        top, left, size = _square(box, scenes.images.shape[1])
        crop = np.array(scenes.images[number, top : top + size, left : left + size])
        resized = F.resize(torch.from_numpy(crop).permute(2, 0, 1), [side, side], antialias=True)
        images[index] = resized.permute(1, 2, 0).numpy()
    labels = np.array([list(classes).index(category) for _, category, _ in objects])
    return ImagesInMemory(images, labels, classes)


def _square(box: Sequence[float], side: int) -> tuple[int, int, int]:
    """Top, left and side of the square around a box, with a margin, inside an image of `side` pixels."""
    x0, y0, x1, y1 = box
    size = min(side, round((1 + 2 * _MARGIN) * max(x1 - x0, y1 - y0)))
    top, left = (round((low + high - size) / 2) for low, high in ((y0, y1), (x0, x1)))
    return min(max(top, 0), side - size), min(max(left, 0), side - size), size
