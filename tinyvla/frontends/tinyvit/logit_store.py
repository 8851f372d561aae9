"""A teacher's answers on disk (fast pretraining distillation, arXiv 2207.10666, section 3): it answers once.

One file: a header (JSON, padded with blanks to HEADER bytes), a byte for every epoch (1 once it is whole), and a record
for every epoch and picture: the seed of the view that the teacher saw, its K largest probabilities and their classes.
Epochs are independent of each other: several processes may fill one store, and a killed one leaves whole epochs.
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
    """What a store holds, and what it was made from.

    Args:
        images, epochs: how many.
        classes, k: classes of the teacher, and how many of them are stored of a picture, 1 <= k <= classes.
        teacher: its name.
        checksum: of the pictures.
        view: `RandomView.describe()`.
        seed: what the views' seeds are drawn from.
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

    @property
    def record(self) -> np.dtype:
        """A picture's record."""
        index = "<u2" if self.classes <= 2**16 else "<u4"
        return np.dtype([("seed", "<u4"), ("values", "<f2", (self.k,)), ("indices", index, (self.k,))])

    @property
    def bytes(self) -> int:
        """Of the whole file."""
        return HEADER + self.epochs + self.epochs * self.images * self.record.itemsize


class LogitStore:
    """An opened store, to be read unless it is `writable`. It may be pickled: every process maps the file for itself.

    Raises UserError if the file is missing, cut short or no store.
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
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(
                f"{self.path} is no logit store ({type(error).__name__}); delete it or name another"
            ) from error
        if (size := self.path.stat().st_size) != self.contents.bytes:
            raise UserError(
                f"{self.path} has {size} bytes instead of {self.contents.bytes}, it was cut short; "
                "delete it and save the teacher's logits again"
            )
        self._map()

    @classmethod
    def create(cls, path: Path | str, contents: Contents) -> "LogitStore":
        """The store at `path`, made if there is none; UserError if the one there is of something else."""
        path = Path(path)
        with alone_in(path.parent):
            if not path.exists():
                temporary = path.with_name(f".{path.name}.tmp")
                header = json.dumps({"format": FORMAT, **asdict(contents)}).encode()
                try:
                    with temporary.open("wb") as file:
                        file.write(header.ljust(HEADER))
                        for start in range(HEADER, contents.bytes, _BLOCK):  # a full disk shows now, not half-way
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

    def require_pictures(self, pictures: Any) -> None:
        """Raise UserError unless these are the pictures that the teacher saw."""
        if len(pictures) != self.contents.images or pictures.checksum != self.contents.checksum:
            raise UserError(f"{self.path}: {_CHANGED}; delete the store or name another one")

    def require_classes(self, classes: int, whose: str) -> None:
        """Raise UserError unless it holds answers about so many classes; whose: the teacher's or the student's."""
        if classes != self.contents.classes:
            raise UserError(
                f"the {whose} has {classes} classes and {self.path} is for {self.contents.classes}; "
                "choose one that it was made for, or another store"
            )

    def require(self, wanted: Contents) -> None:
        """Raise UserError unless the store holds what is wanted, saying what differs."""
        mine, other = asdict(self.contents), asdict(wanted)
        for name, told in _DIFFERENCES.items():
            if mine[name] != other[name]:
                values = "" if name == "checksum" else f" ({mine[name]} in the store, {other[name]} now)"
                raise UserError(f"{self.path}: {told}{values}; delete the store or name another one")

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
        """The epochs that are whole, or those that are not."""
        return np.flatnonzero(self._done == whole).tolist()

    def seeds(self, epoch: int) -> np.ndarray:
        """The seeds (images,) uint32 of an epoch's views, by picture."""
        return np.random.default_rng([self.contents.seed, epoch]).integers(
            2**32, size=self.contents.images, dtype=np.uint32
        )

    def read(self, epoch: int, index: int) -> tuple[int, Tensor, Tensor]:
        """Seed of the view, probabilities (K,) float32 and classes (K,) long of a picture in an epoch."""
        record = self._records[epoch, index]
        values = torch.from_numpy(record["values"].astype(np.float32))
        return int(record["seed"]), values, torch.from_numpy(record["indices"].astype(np.int64))

    @contextmanager
    def claim(self, epoch: int) -> Iterator[bool]:
        """Whether an epoch is this process's to fill: not whole yet, and no other process is at it."""
        with self.path.open("r+b") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, HEADER + epoch)
            except OSError:
                yield False
                return
            yield not self._done[epoch]  # closing the file gives the lock back

    def write(self, epoch: int, start: int, values: Tensor, indices: Tensor) -> None:
        """Put down the probabilities and classes (B, K) of the pictures from number `start` on."""
        rows = self._records[epoch, start : start + len(values)]
        rows["seed"] = self.seeds(epoch)[start : start + len(values)]
        rows["values"] = values.cpu().numpy()
        rows["indices"] = indices.cpu().numpy()

    def finish(self, epoch: int) -> None:
        """Say that an epoch is whole, once it is on disk."""
        self._records.flush()
        self._done[epoch] = 1
        self._done.flush()


_CHANGED = "the pictures have changed since the teacher saw them"
_DIFFERENCES = {
    "checksum": _CHANGED,
    "classes": "the teacher's number of classes differs",
    "teacher": "it was made by another teacher",
    "images": "the number of pictures differs",
    "view": "the teacher saw other views",
    "k": "it holds another number of classes a picture",
    "epochs": "the number of epochs differs",
    "seed": "its views have other seeds",
}
