"""Mutations of the files in a folder: fields of JSON and YAML, bytes and kinds of files, headers of arrays, tables."""

import copy
import json
import os
import random
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

_DEEP, _HUGE_BYTES = 100_000, 64 << 30
_PLACEHOLDER = "nested-value-placeholder"
_TEXTS = (".json", ".yaml", ".jsonl")
_ARBITRARY = ("é日本\u202e\u0000\x1b[31m\nerror: x", "\ud83d", "{{7*7}} ${oc.env:HOME} {0.__class__} %s")


class Scene(NamedTuple):
    """A folder to mutate. folder: copy of a good one. targets: what a stranger may have made in it. files, folders: at
    or below them, relative. outside: what a link that leaves the folder points into."""

    folder: Path
    targets: tuple[str, ...]
    files: list[str]
    folders: list[str]
    outside: Path


type Apply = Callable[[Scene, random.Random], str | None]  # the place of the mutation; None if there is none to mutate


def list_scene(folder: Path, targets: tuple[str, ...], outside: Path) -> Scene:
    """Files and links, and folders, at or below `targets` of a folder."""
    paths = [path for target in targets for path in (folder / target, *sorted((folder / target).rglob("*")))]
    names = {str(path.relative_to(folder)): path for path in paths if os.path.lexists(path)}
    files = [name for name, path in names.items() if path.is_symlink() or path.is_file()]
    return Scene(folder, targets, files, [name for name in names if name not in files], outside)


def _own(path: Path) -> Path:
    """The file with a content of its own; until now it may be a hard link to the good one."""
    if path.is_file() and not path.is_symlink():
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content)
    return path


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


# Fields


def _fields(value: Any, place: tuple = ()) -> Iterator[tuple]:
    entries: Any = ()
    if isinstance(value, dict):
        entries = value.items()
    elif isinstance(value, list):
        entries = list(enumerate(value))[:3]
    for key, entry in entries:
        yield (*place, key)
        yield from _fields(entry, (*place, key))


def _read_text(path: Path) -> Any:
    text = path.read_text()
    if path.suffix == ".yaml":
        return yaml.safe_load(text)
    return [json.loads(line) for line in text.splitlines()] if path.suffix == ".jsonl" else json.loads(text)


def _write_text(path: Path, content: Any) -> None:
    deep = "[" * _DEEP + "]" * _DEEP
    if path.suffix == ".yaml":
        text = yaml.safe_dump(content, sort_keys=False)
    elif path.suffix == ".jsonl":
        text = "".join(json.dumps(line) + "\n" for line in content)
    else:
        text = json.dumps(content)
    path.unlink()
    path.write_text(text.replace(f'"{_PLACEHOLDER}"', deep).replace(_PLACEHOLDER, deep), errors="surrogatepass")


def _field(replace: Callable[[Any, random.Random], Any]) -> Apply:
    def apply(scene: Scene, rng: random.Random) -> str | None:
        files = [name for name in scene.files if name.endswith(_TEXTS) and (scene.folder / name).is_file()]
        if not files:
            return None
        name = rng.choice(files)
        content = _read_text(scene.folder / name)
        places = list(_fields(content))
        if not places:
            return None
        *parents, key = rng.choice(places)
        owner = content
        for parent in parents:
            owner = owner[parent]
        new = replace(copy.deepcopy(owner[key]), rng)
        if new is _DROPPED:
            del owner[key]
        else:
            owner[key] = new
        _write_text(scene.folder / name, content)
        return f"{name}: {'.'.join(map(str, (*parents, key)))} = {str(new)[:60]!r}"

    return apply


_DROPPED = object()


def _other_type(value: Any, rng: random.Random) -> Any:
    values: list[Any] = [None, True, 1, 2.5, "text", [], [1], {}, {"key": 1}, [[]], ""]
    return rng.choice([new for new in values if type(new) is not type(value)])


_FIELDS: dict[str, Callable[[Any, random.Random], Any]] = {
    "field dropped": lambda value, rng: _DROPPED,
    "field of another type": _other_type,
    "field huge": lambda value, rng: rng.choice([10**6, 2**31, 2**63, 10**30, 10**400]),
    "field negative": lambda value, rng: rng.choice([-1, -2, -(2**40), -0.5]),
    "field zero": lambda value, rng: rng.choice([0, 0.0, 1e-300]),
    "field not finite": lambda value, rng: rng.choice([float("nan"), float("inf"), float("-inf")]),
    "field 1e308": lambda value, rng: rng.choice([1e308, -1e308]),
    "field nested": lambda value, rng: _PLACEHOLDER,
    "field long": lambda value, rng: "x" * rng.choice([5000, 1 << 20]),
    "field of other letters": lambda value, rng: rng.choice(_ARBITRARY),
    "field with ..": lambda value, rng: rng.choice(["../outside/secret", "../../../../etc/passwd", "a/../../outside"]),
    "field absolute": lambda value, rng: rng.choice(["/etc/passwd", "/dev/zero", "/"]),
    "field as a class": lambda value, rng: rng.choice(
        ["os.system", {"_target_": "os.system", "command": "touch ../outside/canary"}, "!!python/object:os.system"]
    ),
}

# Files


def _file(change: Callable[[Path, Scene, random.Random], Any], suffixes: tuple[str, ...] = ("",)) -> Apply:
    """A mutation of one file that is not a link; `change` returns False if it has none to make, or a note of it."""

    def apply(scene: Scene, rng: random.Random) -> str | None:
        files = [n for n in scene.files if n.endswith(suffixes) and not (scene.folder / n).is_symlink()]
        if not files:
            return None
        name = rng.choice(files)
        note = change(_own(scene.folder / name), scene, rng)
        return None if note is False else f"{name}{f': {note}' if note else ''}"

    return apply


def _entry(put: Callable[[Path, Scene, random.Random], Any], is_inside: bool = False) -> Apply:
    """Something else in the place of a file, link or folder. The content goes to the folder outside.

    is_inside: not in the place of what the command itself names, which is the user's choice.
    """

    def apply(scene: Scene, rng: random.Random) -> str | None:
        names = [name for name in scene.files + scene.folders if not (is_inside and name in scene.targets)]
        if not names:
            return None
        name = rng.choice(names)
        path = scene.folder / name
        target = scene.outside / f"secret{path.suffix}"
        if path.is_symlink():
            shutil.copytree(path.resolve(), target) if path.is_dir() else shutil.copy(path, target)
            path.unlink()
        else:
            shutil.copytree(path, target) if path.is_dir() else shutil.copy(path, target)
            _remove(path)
        note = put(path, scene, rng)
        return f"{name}{f': {note}' if note else ''}"

    return apply


def _cut(path: Path, scene: Scene, rng: random.Random) -> str:
    size = path.stat().st_size
    length = rng.choice([size // 2, size - 1, 1, size // 10, rng.randrange(size + 1)])
    os.truncate(path, max(0, min(size, length)))
    return f"{length} of {size} bytes"


def _flip(path: Path, scene: Scene, rng: random.Random) -> Any:
    content = bytearray(path.read_bytes())
    if not content:
        return False
    span = rng.choice([len(content), min(len(content), 256)])
    places = [rng.randrange(span) for _ in range(rng.choice([1, 8, 64]))]
    for place in places:
        content[place] ^= 1 << rng.randrange(8)
    path.write_bytes(content)
    return f"{len(places)} bits"


def _swap(path: Path, scene: Scene, rng: random.Random) -> Any:
    files = [scene.folder / name for name in scene.files if not (scene.folder / name).is_symlink()]
    files = [file for file in files if file != path and file.is_file()]
    alike = [file for file in files if file.suffix == path.suffix]
    if not files:
        return False
    other = _own(rng.choice(alike if alike and rng.random() < 0.6 else files))
    mine, theirs = path.read_bytes(), other.read_bytes()
    path.write_bytes(theirs)
    other.write_bytes(mine)
    return f"swapped with {other.relative_to(scene.folder)}"


def _grow(path: Path, scene: Scene, rng: random.Random) -> str:
    os.truncate(path, size := rng.choice([200 << 20, 3 << 30, _HUGE_BYTES]))
    return f"{size >> 20} MB"


def _pickle(path: Path, scene: Scene, rng: random.Random) -> None:
    command = f"touch {scene.outside}/canary".encode()
    path.write_bytes(b"\x80\x04c" + b"os\nsystem\n" + b"X" + struct.pack("<I", len(command)) + command + b"\x85R.")


def _link_out(path: Path, scene: Scene, rng: random.Random) -> None:
    path.symlink_to(scene.outside / f"secret{path.suffix}")


def _other_entry(path: Path, scene: Scene, rng: random.Random) -> str:
    kind = rng.choice(["a link to nothing", "a link to itself", "a link to /", "a link to the parent"])
    path.symlink_to({"a link to nothing": "nowhere", "a link to itself": path.name, "a link to /": "/"}.get(kind, ".."))
    return kind


def _folder(path: Path, scene: Scene, rng: random.Random) -> None:
    path.mkdir()
    (path / "file").write_text("content")


_FILES: dict[str, Apply] = {
    "file cut": _file(_cut),
    "file emptied": _file(lambda path, scene, rng: os.truncate(path, 0)),
    "file swapped": _file(_swap),
    "file with flipped bits": _file(_flip),
    "file of random bytes": _file(lambda path, scene, rng: _no_note(path.write_bytes(rng.randbytes(4096)))),
    "file with more at its end": _file(lambda path, scene, rng: _no_note(path.write_bytes(path.read_bytes() * 2))),
    "file huge": _file(_grow),
    "file a pickled command": _file(_pickle),
    "entry removed": _entry(lambda path, scene, rng: None),
    "entry a folder": _entry(_folder),
    "entry a file": _entry(lambda path, scene, rng: _no_note(path.write_text("content"))),
    "entry a link out": _entry(_link_out, is_inside=True),
    "entry another link": _entry(_other_entry, is_inside=True),
    "entry a pipe": _entry(lambda path, scene, rng: os.mkfifo(path)),
    "entry a device": _entry(lambda path, scene, rng: path.symlink_to(rng.choice(["/dev/zero", "/dev/stdin"]))),
}


def _no_note(_: object) -> None:
    """Nothing, in place of a number of bytes."""


# Headers of arrays


def _tensors(path: Path, scene: Scene, rng: random.Random) -> str:
    """A safetensors header that disagrees with its data, or with the network."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header, data = json.loads(content[8 : 8 + length]), bytearray(content[8 + length :])
    name = rng.choice([key for key in header if key != "__metadata__"])
    tensor, kind = header[name], rng.choice(_TENSOR_KINDS)
    if kind == "length of the header":
        length = rng.choice([0, 1, 2**63, 2**64 - 1, len(content), length - 1])
        path.write_bytes(struct.pack("<Q", length) + content[8:])
        return f"{kind}: {length}"
    if kind == "offsets":
        first, last = tensor["data_offsets"]
        tensor["data_offsets"] = rng.choice([[first, last + 4], [last, first], [0, 2**62], [-4, last], [0, 0]])
    elif kind == "shape":
        sizes = tensor["shape"]
        tensor["shape"] = rng.choice([[], [2**40], [2**32, 2**32], [*sizes, 1], sizes[::-1], [0], [-1], "4", None])
    elif kind == "type":
        tensor["dtype"] = rng.choice(["F64", "BOOL", "I8", "F8_E4M3", "F16", "object", None, 3])
    elif kind == "name":
        header[rng.choice([f"{name}.more", "", "../x"])] = header.pop(name)
    elif kind == "missing":
        header = {key: entry for key, entry in header.items() if key != name}
    elif kind == "metadata":
        header["__metadata__"] = rng.choice([{"format": "tf"}, {"format": "x" * 10**6}, [1], {"a": {"b": 1}}, None])
    else:
        value = rng.choice([np.nan, np.inf, 3e38, 0])
        first, last = tensor["data_offsets"]
        data[first:last] = (np.full((last - first) // 4 + 1, value, np.float32).tobytes())[: last - first]
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(data))
    return f"{kind} of {name}: {str(header.get(name))[:80]}"


_TENSOR_KINDS = ("length of the header", "offsets", "shape", "type", "name", "missing", "metadata", "values")


def _array(path: Path, scene: Scene, rng: random.Random) -> str:
    """A header of NumPy's format that disagrees with its data."""
    array = np.load(path)
    shape: Any = rng.choice([(2**40,), (), (0,), (-1, 3), (*array.shape, 1), array.shape[::-1], (1,), "x"])
    kind = rng.choice(["|u1", "|O", "<f8", "<U4", "V8"])
    rest = f"{{'descr': {kind!r}, 'fortran_order': False, 'shape': {shape!r}}}".ljust(117) + "\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(rest)) + rest.encode() + array.tobytes())
    return f"{kind} {shape}"


# Tables


def _table(path: Path, scene: Scene, rng: random.Random) -> str:
    """A Parquet file that can be read, with other content."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(path, partitioning=None)
    index = rng.randrange(table.num_columns)
    name, column = table.column_names[index], table.column(index)
    kind = rng.choice(
        ["dropped", "texts", "nulls", "huge", "negative", "fewer rows", "rows twice", "reversed", "renamed"]
    )
    if kind == "dropped":
        table = table.remove_column(index)
    elif kind == "renamed":
        table = table.rename_columns([f"{n}x" if n == name else n for n in table.column_names])
    elif kind == "fewer rows":
        table = table.slice(0, table.num_rows // 2)
    elif kind == "rows twice":
        table = pa.concat_tables([table, table])
    elif kind == "reversed":
        table = table.take(list(range(table.num_rows))[::-1])
    else:
        contents: dict[str, Any] = {"texts": "text", "nulls": None, "huge": 2**40, "negative": -1}
        values = [contents[kind]] * table.num_rows
        kinds = column.type if kind == "nulls" else None
        table = table.set_column(index, name, pa.array(values, kinds))
    pq.write_table(table, path)
    return f"{name} {kind}"


MUTATIONS: dict[str, Apply] = {
    **{name: _field(replace) for name, replace in _FIELDS.items()},
    **_FILES,
    "header of tensors": _file(_tensors, (".safetensors",)),
    "header of an array": _file(_array, (".npy",)),
    "values of a table": _file(_table, (".parquet",)),
}


def applicable(scene: Scene) -> list[str]:
    """Names of the mutations that a folder's files allow."""
    has = {suffix for suffix in (".safetensors", ".npy", ".parquet") if any(f.endswith(suffix) for f in scene.files)}
    has_text = any(name.endswith(_TEXTS) for name in scene.files)
    needs = {"header of tensors": ".safetensors", "header of an array": ".npy", "values of a table": ".parquet"}
    return [
        name for name in MUTATIONS if (has_text or not name.startswith("field")) and needs.get(name) in (None, *has)
    ]
