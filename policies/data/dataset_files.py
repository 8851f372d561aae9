"""Files of a LeRobotDataset, read as data: checked before LeRobot opens them, and known again by a fingerprint."""

import hashlib
import json
import math
import shlex
import string
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tinyvla.errors import UserError
from tinyvla.untrusted import check_links, read_json_object

from .dataset_tables import EPISODES, TASKS, check_data, check_finished, check_tables, read_columns

INFO, STATS = "meta/info.json", "meta/stats.json"
VERSION = "v3."
_DTYPES = {
    *("video", "image", "string", "language", "bool", "float16", "float32", "float64"),
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
}
_PLACEHOLDERS = {"chunk_index", "file_index", "video_key"}
_MAX_FPS, _MAX_SIDE, _MAX_VIDEO_SIDE = 1000, 1 << 20, 1 << 13
_SIZES = ("total_tasks", "chunks_size", "data_files_size_in_mb", "video_files_size_in_mb")  # may be absent
_AXES, _CHANNELS = ("height", "width", "channels"), (1, 3, 4)
_NUMBERS = ("mean", "std", "min", "max")  # statistics that normalisation uses


def check_dataset_files(root: Path, with_data: bool = True) -> None:
    """Raise UserError unless a LeRobotDataset is complete, well formed and nothing leads out of its folder.

    What the columns of its data and its videos hold shows when they are read.

    Args:
        root: its folder.
        with_data: False for the metadata of a dataset that is streamed from the hub.
    """
    file = root / INFO
    if not file.is_file():
        raise UserError(f"{root} is not a LeRobotDataset ({INFO} is missing); give the folder of a complete one")
    check_links(root)
    info = read_json_object(file)
    version = info.get("codebase_version")
    if not isinstance(version, str) or not version.startswith(VERSION):
        raise UserError(f"{root} is a dataset of version {version}, not {VERSION}x; {_conversion(root, version)}")
    _check_number(file, "fps", info.get("fps"), 0, _MAX_FPS, whole=False)
    for name in ("total_episodes", "total_frames"):
        _check_number(file, name, info.get(name), 0, 1 << 40)
    for name in _SIZES:
        if name in info:
            _check_number(file, name, info[name], 0, 1 << 40, whole=not name.endswith("_in_mb"))
    for name in ("data_path", "video_path"):
        _check_path(file, name, info.get(name))
    features = info.get("features")
    if not isinstance(features, dict) or not features:
        raise UserError(f"{file} has no features; get a complete copy of the dataset")
    for name, feature in features.items():
        _check_feature(file, name, feature)
    check_finished(root, info)
    if (root / STATS).exists() and not with_data:
        check_statistics(read_json_object(root / STATS), root / STATS)
    check_tables(root, info)
    if with_data:
        check_data(root, info)
        if (root / STATS).exists():
            _check_statistics_of(root, info)


def number_names(feature: Mapping[str, Any]) -> list[str]:
    """Names of the numbers of a feature; none if it has no list of texts, which older datasets have in an object."""
    names: Any = feature.get("names")
    if isinstance(names, Mapping) and len(names) == 1:
        names = next(iter(names.values()))
    is_list = isinstance(names, list | tuple) and all(isinstance(name, str) for name in names)
    return list(names) if is_list else []


def name_image_axes(features: Mapping[str, dict[str, Any]]) -> None:
    """Give every camera's feature the shape (height, width, channels) and these names, which LeRobot's policies read.

    Other tools write the axes in another order, with short names, or without any. A video's own size counts, where
    the feature has it.
    """
    for feature in features.values():
        shape = list(feature["shape"])
        if feature["dtype"] not in ("image", "video") or len(shape) != 3:
            continue
        names = feature.get("names")
        first = str(names[0]).lower()[:1] if isinstance(names, list | tuple) and len(names) == 3 else ""
        # LeRobot stores (height, width, channels) whatever the first two are called.
        if first == "c" or (first not in ("h", "w") and shape[2] not in _CHANNELS and shape[0] in _CHANNELS):
            shape = [*shape[1:], shape[0]]
        info = feature.get("info") or feature.get("video_info") or {}
        sides = [info.get("video.height"), info.get("video.width")] if isinstance(info, dict) else []
        if all(type(side) is int and 0 < side <= _MAX_VIDEO_SIDE for side in sides):
            shape[:2] = sides
        feature["shape"], feature["names"] = tuple(shape), list(_AXES)


def fingerprint(root: Path) -> str:
    """Hash of a dataset's metadata: features, episodes, tasks and statistics; the same for every copy of it."""
    digest = hashlib.sha256()
    files = [root / INFO, root / STATS, root / TASKS, *sorted((root / EPISODES).rglob("*.parquet"))]
    for file in files:
        if not file.exists():
            continue
        content = file.read_bytes()
        if file.suffix == ".json":
            content = json.dumps(json.loads(content), sort_keys=True).encode()
        digest.update(file.relative_to(root).as_posix().encode())
        digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()[:16]


def _conversion(root: Path, version: Any) -> str:
    """Command that converts a dataset of an older version; LeRobot's script works in place and keeps a copy."""
    if version != "v2.1":
        return "get a copy that LeRobot 0.6 can read, or convert it to v2.1 with the LeRobot that recorded it"
    return (
        f"convert it in place: python -m lerobot.scripts.convert_dataset_v21_to_v30 --repo-id=local/{root.name} "
        f"--root={shlex.quote(str(root))} --push-to-hub=false"
    )


def _check_number(file: Path, name: str, value: Any, above: float, high: float, whole: bool = True) -> None:
    kinds = int if whole else int | float
    if isinstance(value, bool) or not isinstance(value, kinds) or not above < value <= high:
        raise UserError(f"{name} in {file} is {_short(value)}, which cannot be; get a complete copy of the dataset")


def _check_path(file: Path, name: str, template: Any) -> None:
    """Refuse a template of paths that leaves the dataset, or whose placeholders reach into objects."""
    if template is None and name == "video_path":
        return
    fault = None
    if not isinstance(template, str):
        fault = "is not a text"
    elif Path(template).is_absolute() or ".." in Path(template).parts or "\0" in template or "\\" in template:
        fault = "leads out of the dataset"
    else:
        try:
            fields = [(field, spec) for _, field, spec, _ in string.Formatter().parse(template) if field is not None]
        except ValueError:
            fields = [("?", "")]
        if any(field not in _PLACEHOLDERS or not _is_width(spec or "") for field, spec in fields):
            fault = f"has other placeholders than {', '.join(sorted(_PLACEHOLDERS))}"
    if fault:
        raise UserError(f"{name} in {file} {fault} ({_short(template)}); get a copy of the dataset with plain paths")


def _is_width(spec: str) -> bool:
    """True for the format of a number with a few digits, such as 03d."""
    return spec == "" or (spec.endswith("d") and len(spec) <= 3 and spec[:-1].isdecimal())


def _check_feature(file: Path, name: str, feature: Any) -> None:
    shape = feature.get("shape") if isinstance(feature, dict) else None
    if (
        not name.isprintable()
        or "/" in name
        or ".." in name
        or not isinstance(feature, dict)
        or feature.get("dtype") not in _DTYPES
        or not isinstance(shape, list)
        or len(shape) > 8
        or any(isinstance(size, bool) or not isinstance(size, int) or not 0 < size <= _MAX_SIDE for size in shape)
        or math.prod(shape) > 1 << 28
    ):
        raise UserError(f"the feature {_short(name)} in {file} cannot be ({_short(feature)}); get a complete copy")


def check_statistics(stats: Mapping[str, Any], file: Path) -> None:
    """Raise UserError unless statistics by feature and kind are numbers, finite where normalisation uses them.

    file: that holds them, for the message.
    """
    for name, statistics in stats.items():
        if not isinstance(statistics, dict):
            raise UserError(f"the statistics of {_short(name)} in {file} are {_short(statistics)}; compute them again")
        for kind, values in statistics.items():
            try:
                numbers = np.asarray(values)
            except (ValueError, TypeError, OverflowError):  # lists of several lengths
                numbers = np.asarray(None)
            if numbers.dtype.kind not in "biuf":
                raise UserError(
                    f"the {_short(kind)} of {_short(name)} in {file} is {_short(values)}, not numbers; compute the "
                    "statistics again"
                )
            if kind in _NUMBERS and not np.isfinite(numbers).all():
                raise UserError(
                    f"the {kind} of {_short(name)} in {file} is not a finite number everywhere; find the episode with "
                    "that value and leave it out, or compute the statistics again"
                )


def _check_statistics_of(root: Path, info: Mapping[str, Any]) -> None:
    """Check a dataset's statistics; those of a feature whose data have a NaN themselves, `inspection` reports."""
    stats = read_json_object(root / STATS)
    damaged = [key for key, kinds in stats.items() if isinstance(kinds, dict) and not _is_finite(kinds)]
    numbers = [key for key in damaged if info["features"].get(key, {}).get("dtype", "").startswith("float")]
    bad = (
        {key for key, values in read_columns(root, numbers).items() if not np.isfinite(values).all()} if numbers else ()
    )
    check_statistics({key: kinds for key, kinds in stats.items() if key not in bad}, root / STATS)


def _is_finite(kinds: Mapping[str, Any]) -> bool:
    try:
        return all(np.isfinite(np.asarray(kinds[kind], float)).all() for kind in _NUMBERS if kind in kinds)
    except (ValueError, TypeError, OverflowError):
        return True  # not numbers: `check_statistics` refuses them


def _short(value: Any) -> str:
    return repr(value)[:80]


def as_lists(stats: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Statistics as JSON can hold them, every number exactly."""
    return {name: {kind: np.asarray(x).tolist() for kind, x in kinds.items()} for name, kinds in stats.items()}


def as_arrays(stats: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, np.ndarray]]:
    """The inverse of `as_lists`."""
    return {name: {kind: np.atleast_1d(np.array(x)) for kind, x in kinds.items()} for name, kinds in stats.items()}
