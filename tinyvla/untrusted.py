"""Files from strangers, read as data: of bounded size, of a checked form, and with no way out of their folder."""

import json
import stat
from pathlib import Path
from typing import Any

from .errors import UserError, one_line

MAX_JSON_BYTES = 64 << 20  # the largest JSON of a checkpoint, a tokenizer's vocabulary, has 20 MB


def inside(folder: Path | str, name: str) -> Path:
    """Path of the file or folder `name` below `folder`.

    Raises UserError for a name that leads out of the folder: absolute, with "..", or through a symbolic link. The one
    exception is a snapshot of the model hub's cache, whose files are links to the blobs of the same repository.
    """
    folder = Path(folder)
    home = folder.resolve()
    homes = [home, *([home.parents[1] / "blobs"] if home.parent.name == "snapshots" else [])]
    path = folder / name.replace("\0", "")
    try:
        target = path.resolve()
    except (OSError, RuntimeError) as error:  # a link to itself
        raise UserError(f"{path} cannot be read ({one_line(error)}); get a copy without such links") from error
    if "\0" in name or not any(target.is_relative_to(place) for place in homes):
        raise UserError(f"{folder} refers to {name}, which is outside of it; get a copy without such paths and links")
    return path


def check_links(folder: Path | str) -> None:
    """Raise UserError if a symbolic link at any depth of `folder` leads out of it."""
    folder = Path(folder)
    for path in folder.rglob("*"):
        if path.is_symlink():
            inside(folder, str(path.relative_to(folder)))


def check_regular(file: Path, limit: int | None = None) -> None:
    """Raise UserError unless `file` is a regular file of at most `limit` bytes; a pipe or a device never ends."""
    try:
        status = file.stat()
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read ({one_line(error)}); get a complete copy") from error
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{file} is not a regular file; get a copy that is")
    if limit is not None and status.st_size > limit:
        raise UserError(f"{file} has {status.st_size / 1e6:.0f} MB, more than {limit / 1e6:.0f}; get the right file")


def read_json(file: Path, limit: int = MAX_JSON_BYTES) -> Any:
    """Content of a JSON file.

    Raises UserError if it is not a regular file, is larger than `limit` bytes, or is not JSON.
    """
    check_regular(file, limit)
    try:
        return json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{file} is damaged ({type(error).__name__}: {one_line(error)}); get a complete copy"
        ) from error


def read_json_object(file: Path, limit: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """Content of a JSON file that holds an object. Raises UserError as `read_json`, and for any other content."""
    content = read_json(file, limit)
    if not isinstance(content, dict):
        raise UserError(f"{file} holds a {type(content).__name__} where an object belongs; get a complete copy")
    return content


def check_values(value: Any, place: str, depth: int = 0) -> None:
    """Raise UserError for a value of a stranger's JSON that no file of this project holds.

    Numbers are finite and below 1e15, texts shorter than 4096 characters and without control characters, lists and
    objects have at most 4096 entries and 16 levels.

    Args:
        value: as read from JSON.
        place: of the value, for the message.
    """
    if depth > 16:
        raise UserError(f"{place} is nested too deeply; get a copy of the original file")
    if isinstance(value, str) and (len(value) > 4096 or any(ord(letter) < 32 for letter in value if letter != "\n")):
        raise UserError(f"{place} is too long a text or holds control characters; get a copy of the original file")
    if isinstance(value, int | float) and not abs(value) < 1e15:  # also of NaN
        raise UserError(f"{place} is {str(value)[:20]}, not a finite number; get a copy of the original file")
    if isinstance(value, dict | list) and len(value) > 4096:
        raise UserError(f"{place} has {len(value)} entries, more than 4096; get a copy of the original file")
    if isinstance(value, dict):
        for key, entry in value.items():
            check_values(key, f"a key of {place}", depth + 1)
            check_values(entry, f"{place}.{key[:50]}", depth + 1)
    elif isinstance(value, list):
        for index, entry in enumerate(value):
            check_values(entry, f"{place}[{index}]", depth + 1)
