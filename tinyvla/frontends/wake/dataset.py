"""Wake Vision's pictures and labels: the real dataset as a stream, and anything of the same form.

A label is a dict: "person" 0 or 1, "distance" near, mid or far, "lighting" dark, normal or bright, "depiction" none,
person or non_person, and the subject groups of `GROUPS`; None, or no such key, where nobody knows. Generated rooms
(`envs.scenes`) have it too.
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

from ...errors import UserError

logger = logging.getLogger(__name__)

# The hub keeps the large training set, 5.8 million pictures with labels that are less sure, in a repository of its own.
REPOSITORIES = {
    "train_quality": "Harvard-Edge/Wake-Vision",
    "train_large": "Harvard-Edge/Wake-Vision-Train-Large",
    "validation": "Harvard-Edge/Wake-Vision",
    "test": "Harvard-Edge/Wake-Vision",
}
# The dataset's columns, each 1, 0, or -1 where it is not known, and the label that a 1 means.
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
GROUPS = ("gender", "age", "build", "skin_tone")  # of subjects: perceived ones of real people, those of generated ones
_TROUBLE = (OSError, ValueError, KeyError, HfHubHTTPError, HFValidationError, DatasetsError)

type Label = Mapping[str, Any]


@dataclass
class Pictures:
    """Pictures in memory: images uint8 (N, S, S, 3), labels one a picture."""

    images: np.ndarray
    labels: list[dict[str, Any]]

    def __len__(self) -> int:
        return len(self.labels)


def read_label(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of the dataset as a label."""
    label: dict[str, Any] = {"person": int(row["person"])}
    for name, columns in COLUMNS.items():
        label[name] = next((value for column, value in columns.items() if row.get(column) == 1), None)
    return label


def open_wake_vision(split: str, source: str | Path | None = None) -> IterableDataset:
    """A split of Wake Vision as a stream of rows, pictures not yet decoded; nothing is downloaded ahead.

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
    except _TROUBLE as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"Wake Vision's {split} cannot be read from {name} ({type(error).__name__}: {reason}); "
            "check the network, or give the folder of a copy as data.source"
        ) from error


def take(split: str, image_size: int, count: int | None = None, source: str | Path | None = None) -> Pictures:
    """The first `count` pictures of a split, or all of them, square and in memory.

    As the authors evaluate, the middle of a picture is cut out: labels are about that. Unreadable pictures, and those
    that are labelled neither way, are left out.
    """
    images: list[np.ndarray] = []
    labels: list[dict[str, Any]] = []
    for row in open_wake_vision(split, source):
        if count is not None and len(labels) >= count:
            break
        if (picture := _read(row, image_size)) is not None:
            images.append(picture)
            labels.append(read_label(row))
    return Pictures(np.array(images, np.uint8).reshape(-1, image_size, image_size, 3), labels)


class WakeVisionStream:
    """Batches of a training split, without end, in an order that depends on the seed alone.

    A stream has no random access: rows are drawn from a buffer that is filled in the order of the dataset's files, and
    going on from a later step means reading up to there.
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
        """buffer: how many rows, with their undecoded pictures, lie in memory."""
        self.image_size, self.batch_size = image_size, batch_size
        self._rows = open_wake_vision(split, source).shuffle(seed, buffer_size=buffer)
        self._step = 0
        self._iterator = self._endless()

    def batch(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Pictures uint8 (B, S, S, 3) and whether a person is in each, float32 (B,), of step number `step`.

        B is the batch size less the pictures that are unreadable or labelled neither way.
        """
        if step < self._step:
            self._step, self._iterator = 0, self._endless()
        while self._step < step:
            self._next_rows()
        read = [(_read(row, self.image_size), row["person"]) for row in self._next_rows()]
        kept = [(picture, person) for picture, person in read if picture is not None]
        if not kept:
            raise UserError("none of a batch's pictures can be read; the dataset is damaged: fetch it again")
        pictures, persons = zip(*kept, strict=True)
        return np.stack(pictures), np.array(persons, np.float32)

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
    """The square middle of a row's picture, uint8 (size, size, 3); None if it is unreadable or not labelled."""
    if row["person"] not in (0, 1):
        return None
    try:
        with Image.open(io.BytesIO(row["image"]["bytes"])) as image:
            image.draft("RGB", (2 * size, 2 * size))  # a JPEG need not be decoded in full
            return np.asarray(ImageOps.fit(image.convert("RGB"), (size, size), Image.Resampling.BILINEAR))
    except (OSError, SyntaxError, ValueError, TypeError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        logger.warning("Wake Vision's picture %s cannot be read: %s", row.get("filename", "?"), error)
        return None
