"""Files that are in their place whole or not at all, and folders that only one process works in."""

import contextlib
import fcntl
import os
import re
import secrets
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from .errors import UserError, one_line
from .untrusted import inside, read_json_object

MODEL = "pretrained_model"  # folder of a checkpoint with the model
BEST_STEP = Path("training_state/best.json")  # in a checkpoint: step of the best one when it was written
_LOCK, _RUN_LOCK = ".lock", ".run.lock"
_TEMPORARY = re.compile(r"\.tmp-([0-9]{1,9})-\w+")


def write_whole(path: Path, content: str | bytes) -> Path:
    """Put a file in its place whole, its folder too, so that it outlasts a kill and a power cut; returns the path.

    Several processes may write the same file; the last one wins. What killed processes left beside it is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _clear_leftovers(path.parent)
    temporary = path.with_name(f".tmp-{os.getpid()}-{secrets.token_hex(4)}")
    try:
        with temporary.open("xb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)
    return path


def check_writable(folder: Path) -> None:
    """Raise UserError unless a folder, which may be missing yet, can be written. Writes nothing."""
    place = next(place for place in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(place))
    if not place.is_dir():
        reason = f"{place} is a file"
    elif not os.access(place, os.W_OK | os.X_OK):
        reason = f"{place} is read-only"
    elif shutil.disk_usage(place).free == 0:
        reason = "the disk is full"
    else:
        return
    raise UserError(f"{folder} cannot be written ({reason}); choose another folder")


def _clear_leftovers(folder: Path) -> None:
    """Remove temporary files of `write_whole` whose process is gone."""
    for entry in os.scandir(folder):
        if match := _TEMPORARY.fullmatch(entry.name):
            try:
                os.kill(int(match[1]), 0)  # sends nothing
            except ProcessLookupError:
                with contextlib.suppress(OSError):
                    os.unlink(entry.path)
            except OSError:
                pass  # a process of another user


def sync(path: Path) -> None:
    """Have the disk hold a file's content, or a folder's names, so that a power cut does not lose them."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with (
            contextlib.suppress(OSError) if path.is_dir() else contextlib.nullcontext()
        ):  # some disks have no such call
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Have the disk hold all that is in a folder, at any depth."""
    for place, _, names in os.walk(folder, topdown=False):
        for name in names:
            if not (path := Path(place, name)).is_symlink():
                sync(path)
        sync(Path(place))


def discard(folder: Path) -> None:
    """Delete a folder so that a killed process leaves it whole or under a name that `fill_folder` clears."""
    if folder.is_dir() and not folder.is_symlink():
        doomed = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.tmp")
        folder.replace(doomed)
        shutil.rmtree(doomed, ignore_errors=True)
    else:  # nothing, or a link, a file or a pipe in the folder's place
        folder.unlink(missing_ok=True)


def finished_checkpoints(run_dir: Path) -> list[Path]:
    """Folders of a run's checkpoints, oldest first."""
    checkpoints = run_dir / "checkpoints"
    folders = checkpoints.iterdir() if checkpoints.is_dir() else []
    return sorted((path for path in folders if re.fullmatch(r"[0-9]+", path.name)), key=lambda path: int(path.name))


def best_checkpoint(run_dir: Path) -> Path | None:
    """Folder of a run's best checkpoint, None if there is none.

    The newest checkpoint records it, since a process may be killed before it moves the link `best`. Older versions have
    only the link. Raises UserError if the record is damaged, or in a folder elsewhere that a link leads to.
    """
    finished = finished_checkpoints(run_dir)
    link = run_dir / "checkpoints/best"
    record = inside(run_dir, str(finished[-1].relative_to(run_dir) / BEST_STEP)) if finished else None
    if record and record.exists():
        step = read_json_object(record).get("step")
        if step is not None and not isinstance(step, int):
            raise UserError(f"{record} is damaged (its step is {one_line(repr(step), 40)}); delete {finished[-1]}")
        return next((folder for folder in finished if int(folder.name) == step), None)
    name = os.readlink(link) if link.is_symlink() else ""
    return next((folder for folder in finished if folder.name == name), None)


def model_in(folder: Path | str) -> Path | None:
    """The folder with a model's config.json: the given one, a checkpoint's, or that of a run's best, else last one."""
    folder = Path(folder)
    places = [folder, folder / MODEL]
    if finished := finished_checkpoints(folder):
        best = best_checkpoint(folder)
        links = {"best": best, "last": finished[-1]}
        places += [_by_link(place, name) / MODEL for name, place in links.items() if place]
    places += [folder / "checkpoints" / name / MODEL for name in ("best", "last")]
    return next((place for place in places if (place / "config.json").is_file()), None)


def _by_link(checkpoint: Path, name: str) -> Path:
    """The checkpoint's path by the link beside it, where that is right."""
    link = checkpoint.with_name(name)
    return link if link.is_symlink() and os.readlink(link) == checkpoint.name else checkpoint


_locks: set[int] = set()  # open files


def _leave_locks() -> None:
    for lock in _locks:
        os.close(lock)
    _locks.clear()


os.register_at_fork(after_in_child=_leave_locks)  # else a child that outlives this process prolongs its locks


@contextlib.contextmanager
def alone_in(folder: Path, wait: bool = True) -> Iterator[None]:
    """Lock a folder for one process at a time. A killed process leaves it free.

    The folder is made if it is missing, and removed again if it is still empty at the end.

    Args:
        wait: a second process waits here; False, for the folder of a run: it raises UserError. These are two locks: the
            process of a run may still fill folders in the run's folder.

    Raises UserError if the folder cannot be written.
    """
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    path = folder / (_LOCK if wait else _RUN_LOCK)
    lock = _lock(path, wait)
    _locks.add(lock)
    try:
        yield
    finally:
        _locks.discard(lock)
        with contextlib.suppress(OSError):
            path.unlink()
        fcntl.flock(lock, fcntl.LOCK_UN)
        os.close(lock)
        for place in missing:
            with contextlib.suppress(OSError):  # not empty, or in use
                place.rmdir()


def _lock(path: Path, wait: bool) -> int:
    """Descriptor of a locked file."""
    folder = path.parent
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # Not through a link, which a stranger's folder may hold, and without waiting for a pipe's other end.
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
        except FileNotFoundError:
            continue  # another process has just removed the empty folder
        except OSError as error:
            raise UserError(
                f"{folder} cannot be written ({one_line(error.strerror or error)}); choose another folder"
            ) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if not wait:
                os.close(lock)
                raise UserError(
                    f"another process is at work in {folder}; wait until it has ended, or choose another folder"
                ) from error
            print(f"waiting for another process that is at work in {folder}", file=sys.stderr)
            fcntl.flock(lock, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(lock), path.stat()):
                return lock
        os.close(lock)  # of a process that has ended in the meantime, and removed the file


def fill_folder(folder: Path, is_complete: Callable[[], bool], fill: Callable[[Path], None]) -> None:
    """Unless `is_complete()`, have `fill` make a folder's content beside it and put that in its place whole.

    Another process that wants the same folder waits and then finds it complete. What `fill` raises leaves nothing, and
    what killed processes left is removed. A link in the folder's place is replaced.
    """

    def is_filled() -> bool:
        return not folder.is_symlink() and is_complete()

    if is_filled():
        return
    with alone_in(folder.parent):
        clear_temporary_folders(folder.parent)
        if is_filled():
            return
        temporary = folder.with_name(f".{folder.name}.tmp")
        try:
            temporary.mkdir(parents=True)
            fill(temporary)
            sync_folder(temporary)
            discard(folder)
            temporary.replace(folder)
            sync(folder.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def clear_temporary_folders(folder: Path) -> None:
    """Remove the `.<name>.tmp` in a folder that this process is `alone_in`: killed processes left them."""
    for entry in os.scandir(folder):
        if entry.name.startswith(".") and entry.name.endswith(".tmp"):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
            else:
                os.unlink(entry.path)
