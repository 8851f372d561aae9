"""Files that are in their place whole or not at all, and folders that only one process fills."""

import contextlib
import fcntl
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path


def write_whole(path: Path, content: str | bytes) -> Path:
    """Put a file in its place whole, its folder too; returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_bytes(content.encode() if isinstance(content, str) else content)
    return temporary.replace(path)


def model_in(folder: Path | str) -> Path | None:
    """The folder with a model's config.json: the given one, a checkpoint's, or that of a run's best, else last one."""
    below = ("", "pretrained_model", "checkpoints/best/pretrained_model", "checkpoints/last/pretrained_model")
    return next((place for suffix in below if ((place := Path(folder) / suffix) / "config.json").is_file()), None)


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Lock a folder for one process at a time; a second process waits here. A killed process leaves it free."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(lock, fcntl.LOCK_UN)  # also where a child process has inherited the file


def fill_folder(folder: Path, is_complete: Callable[[], bool], fill: Callable[[Path], None]) -> None:
    """Unless `is_complete()`, have `fill` make a folder's content beside it and put that in its place whole.

    Another process that wants the same folder waits and then finds it complete. What `fill` raises leaves nothing.
    """
    if is_complete():
        return
    with alone_in(folder.parent):
        if is_complete():
            return
        temporary = folder.with_name(f".{folder.name}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            temporary.mkdir(parents=True)
            fill(temporary)
            shutil.rmtree(folder, ignore_errors=True)
            temporary.replace(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
