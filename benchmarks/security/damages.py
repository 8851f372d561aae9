"""Damages to the files of a run, a dataset, a cache or a checkpoint, by name, for the rows of `odd_values.txt`."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import NamedTuple

from tinyvla.files import alone_in


class Damage(NamedTuple):
    """A damage to the prepared folder of `odd_values`, for as long as its block lasts.

    Args:
        apply: damages a folder.
        restored: pattern of the files that the command must make anew, as they were; None: the command is refused.
    """

    apply: Callable[[Path], AbstractContextManager[None]]
    restored: str | None = None


def _change(pattern: str, change: Callable[[bytes], bytes]) -> Callable[[Path], AbstractContextManager[None]]:
    @contextmanager
    def apply(folder: Path) -> Iterator[None]:
        file = [file for file in sorted(folder.glob(pattern)) if file.is_file()][0]  # noqa: RUF015
        file.write_bytes(change(file.read_bytes()))
        yield

    return apply


def _write(pattern: str, content: bytes) -> Callable[[Path], AbstractContextManager[None]]:
    return _change(pattern, lambda _: content)


def _cut(pattern: str) -> Callable[[Path], AbstractContextManager[None]]:
    return _change(pattern, lambda content: content[: len(content) // 2])


def _other_digits(content: bytes) -> bytes:
    """The same text with other numbers: as long, and still JSON."""
    return content.translate(bytes.maketrans(b"123456789", b"234567891"))


def _locked(name: str) -> Callable[[Path], AbstractContextManager[None]]:
    """Another process at work in a folder."""

    @contextmanager
    def apply(folder: Path) -> Iterator[None]:
        with alone_in(folder / name, wait=False):
            yield

    return apply


@contextmanager
def _folder_without_writing(folder: Path) -> Iterator[None]:
    """A folder that nothing can be written to: on root's account only a file system that refuses writing is one."""
    (folder / "outputs" / "unwritable").symlink_to("/proc/self")
    yield


def _without(key: str) -> Callable[[bytes], bytes]:
    def change(content: bytes) -> bytes:
        return json.dumps({name: value for name, value in json.loads(content).items() if name != key}).encode()

    return change


_DATASET, _MODEL, _STATE = "data/metaworld-*", "outputs/run/checkpoints/*/pretrained_model", "outputs/run/checkpoints/*"
DAMAGES = {
    "live run": Damage(_locked("outputs/run")),
    "live evaluation": Damage(_locked("outputs/evaluation")),
    "unwritable folder": Damage(_folder_without_writing),
    "changed dataset": Damage(_change(f"{_DATASET}/meta/stats.json", _other_digits)),
    "collection.json is a list": Damage(_write(f"{_DATASET}/meta/collection.json", b"[]")),
    "collection.json is binary": Damage(_write(f"{_DATASET}/meta/collection.json", os.urandom(99))),
    "empty info.json": Damage(_write(f"{_DATASET}/meta/info.json", b"")),
    "info.json is a list": Damage(_write(f"{_DATASET}/meta/info.json", b"[1]")),
    "cut table": Damage(_cut(f"{_DATASET}/data/*/*.parquet")),
    "cut frame cache": Damage(_cut("data/frames/*/*.npy"), "data/frames/*/*"),
    "binary stamp of the frame cache": Damage(_write("data/frames/*/stamp.json", b"\xff\x00{"), "data/frames/*/*"),
    "stamp of the frame cache is a list": Damage(_write("data/frames/*/stamp.json", b"[]"), "data/frames/*/*"),
    "dataset.json is a list": Damage(_write("outputs/run/dataset.json", b"[]")),
    "cut weights": Damage(_cut(f"{_MODEL}/model.safetensors")),
    "empty weights": Damage(_write(f"{_MODEL}/model.safetensors", b"")),
    "config.json is a list": Damage(_write(f"{_MODEL}/config.json", b"[]")),
    "config.json without a type": Damage(_change(f"{_MODEL}/config.json", _without("type"))),
    "empty config.json": Damage(_write(f"{_MODEL}/config.json", b"")),
    "pre-processor is binary": Damage(_write(f"{_MODEL}/policy_preprocessor.json", b"\x80\x02garbage")),
    "pre-processor is a list": Damage(_write(f"{_MODEL}/policy_preprocessor.json", b"[]")),
    "cut statistics": Damage(_cut(f"{_MODEL}/*processor*.safetensors")),
    "cut training state": Damage(_cut(f"{_STATE}/training_state/state.pt")),
}
