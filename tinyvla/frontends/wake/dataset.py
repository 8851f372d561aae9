"""Images and labels of Wake Vision: the real dataset as a stream, and images in memory.

A label is a dict: "person" 0 or 1, "distance" near, mid or far, "lighting" dark, normal or bright, "depiction" none,
person or non_person, and the subject groups of `GROUPS`; None, or no such key, where it is unknown. Generated rooms
(`envs.scenes`) have the same labels.
"""

import io
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Image as ImageColumn
from datasets import IterableDataset, load_dataset
from datasets.exceptions import DatasetsError
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from PIL import Image, ImageOps, UnidentifiedImageError

from ...errors import UserError, one_line
from ..images import image_formats

logger = logging.getLogger(__name__)

# The large training set, 5.8 million images with less certain labels, is a separate repository of the hub.
REPOSITORIES = {
    "train_quality": "Harvard-Edge/Wake-Vision",
    "train_large": "Harvard-Edge/Wake-Vision-Train-Large",
    "validation": "Harvard-Edge/Wake-Vision",
    "test": "Harvard-Edge/Wake-Vision",
}
# Columns of the dataset, each 1, 0, or -1 where it is unknown, and the label for a 1.
COLUMNS = {
    "distance": {"near": "near", "medium_distance": "mid", "far": "far"},
    "lighting": {"dark": "dark", "normal_lighting": "normal", "bright": "bright"},
    "depiction": {
        "person_depiction": "person",
        "non-person_depiction": "non_person",
        "non-person_non-depiction": "none",
    },
    "gender": {"predominantly_female": "female", "predominantly_male": "male", "gender_unknown": "unknown"},
    "age": {"young": "young", "middle_age": "middle", "older": "older", "age_unknown": "unknown"},
}
GROUPS = ("gender", "age", "build", "skin_tone")  # of subjects; perceived ones in real images
_READ_ERRORS = (OSError, ValueError, KeyError, RuntimeError, HfHubHTTPError, HFValidationError, DatasetsError)

type Label = Mapping[str, Any]


@dataclass
class WakeVisionImages:
    """Images in memory, uint8 (N, S, S, 3), with one label each."""

    images: np.ndarray
    labels: list[dict[str, Any]]

    def __len__(self) -> int:
        return len(self.labels)


def read_label(row: Mapping[str, Any]) -> dict[str, Any]:
    """Label of a row of the dataset."""
    label: dict[str, Any] = {"person": int(row["person"])}
    for name, columns in COLUMNS.items():
        label[name] = next((value for column, value in columns.items() if row.get(column) == 1), None)
    return label


def open_wake_vision(split: str, source: str | Path | None = None) -> IterableDataset:
    """Stream of rows of a split, with undecoded images. Nothing is downloaded in advance.

    Args:
        split: train_quality, train_large, validation or test.
        source: a folder with a copy of the hub's repository; None: the hub.

    Raises UserError for an unknown split, or if it cannot be read.
    """
    if split not in REPOSITORIES:
        raise UserError(f"Wake Vision has no split {split!r}; choose {', '.join(REPOSITORIES)}")
    name = str(source or REPOSITORIES[split])
    try:
        rows = load_dataset(name, split=split, streaming=True)
        return rows.cast_column("image", ImageColumn(decode=False))
    except _READ_ERRORS as error:
        raise UserError(
            f"Wake Vision's {split} cannot be read from {name} ({type(error).__name__}: {one_line(error)}); "
            "check the network, or give the folder of a copy as task.dataset.source"
        ) from error


def take(split: str, image_size: int, count: int | None = None, source: str | Path | None = None) -> WakeVisionImages:
    """First `count` images of a split (None: all), square and in memory.

    As in the authors' evaluation, an image is cropped to its middle, which the labels describe. Images that cannot be
    read or have no label are left out.
    """
    images: list[np.ndarray] = []
    labels: list[dict[str, Any]] = []
    for row in open_wake_vision(split, source):
        if count is not None and len(labels) >= count:
            break
        if (image := _read(row, image_size)) is not None:
            images.append(image)
            labels.append(read_label(row))
    return WakeVisionImages(np.array(images, np.uint8).reshape(-1, image_size, image_size, 3), labels)


class WakeVisionStream:
    """Endless batches of a training split, in an order that depends on the seed alone.

    A stream has no random access: rows are drawn from a buffer that is filled in the order of the dataset's files, and
    a later step is reached by reading up to it.

    Args:
        split: "train_quality" or "train_large".
        image_size: side in pixels.
        batch_size: rows per batch.
        seed: of the order.
        source: a folder with a copy of the hub's repository; None: the hub.
        buffer: number of rows in memory, with undecoded images.
    """

    def __init__(
        self,
        split: str,
        image_size: int,
        batch_size: int,
        seed: int = 0,
        source: str | Path | None = None,
        buffer: int = 2000,
    ):
        self.image_size, self.batch_size = image_size, batch_size
        self._rows = open_wake_vision(split, source).shuffle(seed, buffer_size=buffer)
        self._step = 0
        self._iterator = self._endless()

    def batch(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Images uint8 (B, S, S, 3) of a step, and float32 (B,), 1 for an image with a person.

        B is the batch size without the images that cannot be read or have no label.
        """
        if step < self._step:
            self._step, self._iterator = 0, self._endless()
        while self._step < step:
            self._next_rows()
        rows = [(_read(row, self.image_size), row["person"]) for row in self._next_rows()]
        readable = [(image, person) for image, person in rows if image is not None]
        if not readable:
            raise UserError("no image of a batch can be read; the dataset is damaged: fetch it again")
        images, persons = zip(*readable, strict=True)
        return np.stack(images), np.array(persons, np.float32)

    def _next_rows(self) -> list[dict[str, Any]]:
        self._step += 1
        return [next(self._iterator) for _ in range(self.batch_size)]

    def _endless(self) -> Iterator[dict[str, Any]]:
        epoch = 0
        while True:
            self._rows.set_epoch(epoch)
            empty = True
            for row in self._rows:
                empty = False
                yield row
            if empty:
                raise UserError("the training split has no rows; fetch the dataset again")
            epoch += 1


def _read(row: Mapping[str, Any], size: int) -> np.ndarray | None:
    """Square middle of a row's image, uint8 (size, size, 3); None if it cannot be read or has no label."""
    if row["person"] not in (0, 1):
        return None
    try:
        with Image.open(io.BytesIO(row["image"]["bytes"]), formats=image_formats()) as image:
            image.draft("RGB", (2 * size, 2 * size))  # decodes a JPEG at a lower resolution
            return np.asarray(ImageOps.fit(image.convert("RGB"), (size, size), Image.Resampling.BILINEAR))
    except (OSError, SyntaxError, ValueError, TypeError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        logger.warning("Wake Vision's image %s cannot be read: %s", row.get("filename", "?"), error)
        return None
