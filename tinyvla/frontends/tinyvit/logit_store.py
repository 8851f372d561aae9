"""A teacher's predictions on disk (fast pretraining distillation, arXiv 2207.10666, section 3).

The file holds a header (JSON, padded with blanks to HEADER bytes), one byte per epoch (1 when it is complete), and one
record per epoch and image: the seed of the view, the K largest probabilities and their classes. Epochs are independent:
several processes may fill one store, and a killed process leaves complete epochs.
"""

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ...errors import UserError
from ...files import alone_in

FORMAT, HEADER = "logit store 1", 4096
_BLOCK = 2**20


@dataclass(frozen=True)
class Contents:
    """Description of a store.

    Args:
        images, epochs: their numbers.
        classes, k: number of classes of the teacher, and number of stored classes per image, 1 <= k <= classes.
        teacher: its name.
        checksum: of the images.
        view: `RandomView.describe()`.
        seed: of the views' seeds.
    """

    images: int
    epochs: int
    classes: int
    k: int
    teacher: str
    checksum: str
    view: dict[str, Any]
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.k <= self.classes:
            raise UserError(f"k={self.k} of {self.classes} classes cannot be stored; use 1 to {self.classes}")
        if not all(type(number) is int and number >= 0 for number in (self.images, self.epochs, self.k, self.seed)):
            raise ValueError("a number of images, epochs or classes is none")

    @property
    def record(self) -> np.dtype:
        """Data type of one record."""
        index = "<u2" if self.classes <= 2**16 else "<u4"
        return np.dtype([("seed", "<u4"), ("values", "<f2", (self.k,)), ("indices", index, (self.k,))])

    @property
    def bytes(self) -> int:
        """Size of the file."""
        return HEADER + self.epochs + self.epochs * self.images * self.record.itemsize


class LogitStore:
    """An open store, read-only unless `writable`. It can be pickled: every process maps the file itself.

    Raises UserError if the file is missing, cut short or not a store.
    """

    def __init__(self, path: Path | str, writable: bool = False):
        self.path = Path(path)
        self._mode: Literal["r", "r+"] = "r+" if writable else "r"
        try:
            with self.path.open("rb") as file:
                header = json.loads(file.read(HEADER))
            if header.pop("format") != FORMAT:
                raise ValueError("another format")
            self.contents = Contents(**header)
        except FileNotFoundError as error:
            raise UserError(f"there is no logit store at {self.path}; save the teacher's logits first") from error
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise UserError(
                f"{self.path} is not a logit store ({type(error).__name__}); delete it or name another"
            ) from error
        if (size := self.path.stat().st_size) != self.contents.bytes:
            raise UserError(
                f"{self.path} has {size} bytes instead of {self.contents.bytes}, it was cut short; "
                "delete it and save the teacher's logits again"
            )
        self._map()

    @classmethod
    def create(cls, path: Path | str, contents: Contents) -> "LogitStore":
        """Store at `path`, created where it is missing. Raises UserError if it holds something else."""
        path = Path(path)
        with alone_in(path.parent):
            if not path.exists():
                temporary = path.with_name(f".{path.name}.tmp")
                header = json.dumps({"format": FORMAT, **asdict(contents)}).encode()
                try:
                    with temporary.open("wb") as file:
                        file.write(header.ljust(HEADER))
                        for start in range(HEADER, contents.bytes, _BLOCK):  # a full disk fails now, not half-way
                            file.write(bytes(min(_BLOCK, contents.bytes - start)))
                except OSError as error:
                    temporary.unlink(missing_ok=True)
                    raise UserError(
                        f"{path} could not be made ({error}); it takes {contents.bytes / 1e6:.0f} MB: free some space"
                    ) from error
                temporary.replace(path)
        store = cls(path, writable=True)
        store.require(contents)
        return store

    def require_images(self, images: Any) -> None:
        """Raise UserError unless these are the images of the store."""
        if len(images) != self.contents.images or images.checksum != self.contents.checksum:
            raise UserError(f"{self.path}: {_CHANGED}; delete the store or name another one")

    def require_classes(self, classes: int, whose: str) -> None:
        """Raise UserError unless the store has this number of classes; whose: "teacher" or "student"."""
        if classes != self.contents.classes:
            raise UserError(
                f"the {whose} has {classes} classes and {self.path} is for {self.contents.classes}; "
                "choose a matching one, or another store"
            )

    def require(self, contents: Contents) -> None:
        """Raise UserError unless the store has these contents, with the difference."""
        stored, required = asdict(self.contents), asdict(contents)
        for name, difference in _DIFFERENCES.items():
            if stored[name] != required[name]:
                values = "" if name == "checksum" else f" ({stored[name]} in the store, {required[name]} now)"
                raise UserError(f"{self.path}: {difference}{values}; delete the store or name another one")

    def _map(self) -> None:
        contents = self.contents
        self._done = np.memmap(self.path, np.uint8, self._mode, HEADER, (contents.epochs,))
        shape = (contents.epochs, contents.images)
        self._records = np.memmap(self.path, contents.record, self._mode, HEADER + contents.epochs, shape)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_done", "_records")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._map()

    def epochs(self, whole: bool) -> list[int]:
        """Numbers of the complete epochs, or of the incomplete ones."""
        return np.flatnonzero(self._done == whole).tolist()

    def seeds(self, epoch: int) -> np.ndarray:
        """Seeds (images,) uint32 of an epoch's views, by image."""
        return np.random.default_rng([self.contents.seed, epoch]).integers(
            2**32, size=self.contents.images, dtype=np.uint32
        )

    def read(self, epoch: int, index: int) -> tuple[int, Tensor, Tensor]:
        """Seed of the view, probabilities (K,) float32 and classes (K,) long of an image in an epoch."""
        record = self._records[epoch, index]
        values = torch.from_numpy(record["values"].astype(np.float32))
        return int(record["seed"]), values, torch.from_numpy(record["indices"].astype(np.int64))

    @contextmanager
    def claim(self, epoch: int) -> Iterator[bool]:
        """Context with True if this process may fill an epoch: incomplete, and not claimed by another process."""
        with self.path.open("r+b") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, HEADER + epoch)
            except OSError:
                yield False
                return
            yield not self._done[epoch]  # closing the file releases the lock

    def write(self, epoch: int, start: int, values: Tensor, indices: Tensor) -> None:
        """Write probabilities and classes (B, K) of the images from number `start` on."""
        rows = self._records[epoch, start : start + len(values)]
        rows["seed"] = self.seeds(epoch)[start : start + len(values)]
        rows["values"] = values.cpu().numpy()
        rows["indices"] = indices.cpu().numpy()

    def finish(self, epoch: int) -> None:
        """Flush an epoch to disk and mark it complete."""
        self._records.flush()
        self._done[epoch] = 1
        self._done.flush()


_CHANGED = "the images have changed since the teacher saw them"
_DIFFERENCES = {
    "checksum": _CHANGED,
    "classes": "the teacher's number of classes differs",
    "teacher": "it was made by another teacher",
    "images": "the number of images differs",
    "view": "the teacher saw other views",
    "k": "it holds another number of classes per image",
    "epochs": "the number of epochs differs",
    "seed": "its views have other seeds",
}
