"""Tables and videos of a LeRobotDataset, checked before LeRobot opens them.

LeRobot looks for missing files on the model hub, under a name that anybody may own; so all must be there.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tinyvla.errors import UserError, one_line
from tinyvla.untrusted import check_regular, inside

TASKS, EPISODES, DATA = "meta/tasks.parquet", "meta/episodes", "data"
_COUNTS = ("episode_index", "length", "dataset_from_index", "dataset_to_index")
_INDICES = ("timestamp", "frame_index", "episode_index", "index", "task_index")  # of every frame
_NAMES = ("task", "__index_level_0__")  # of the column of instructions
_PLACE = ("chunk_index", "file_index")  # of the file with an episode
_FIX = "get a complete copy of the dataset"


def check_tables(root: Path, info: Mapping[str, Any]) -> None:
    """Raise UserError unless the tables of tasks and episodes have their columns, and add up to `info`."""
    tasks = _read(root / TASKS)
    names = next((tasks.column(name) for name in _NAMES if name in tasks.column_names), None)
    if (
        names is None
        or names.null_count
        or not (pa.types.is_string(names.type) or pa.types.is_large_string(names.type))
    ):
        raise UserError(f"{root / TASKS} has no instructions; {_FIX}")
    indices = _whole_numbers(tasks, "task_index", root / TASKS)
    if sorted(indices) != list(range(len(indices))):
        raise UserError(f"{root / TASKS} does not number its tasks from 0; {_FIX}")
    episodes = _read_episodes(root, info)
    counts = {name: _whole_numbers(episodes, name, root / EPISODES) for name in _COUNTS}
    ends = np.cumsum(counts["length"])
    if (
        len(ends) != info["total_episodes"]
        or (counts["length"] < 1).any()
        or ends[-1] != info["total_frames"]
        or (counts["dataset_to_index"] != ends).any()
        or (counts["dataset_from_index"] != ends - counts["length"]).any()
        or (counts["episode_index"] != np.arange(len(ends))).any()
    ):
        raise UserError(
            f"the episodes in {root / EPISODES} do not add up to the {info['total_frames']} frames of "
            f"{info['total_episodes']} episodes in meta/info.json; {_FIX}"
        )


def check_data(root: Path, info: Mapping[str, Any]) -> None:
    """Raise UserError unless the data and the videos of all episodes are there, and the data has its columns."""
    columns = [name for name, feature in info["features"].items() if feature["dtype"] != "video"] + [*_INDICES]
    files = sorted((root / DATA).glob("*/*.parquet"))
    if not files:
        raise UserError(f"{root} has no data/*/*.parquet; {_FIX}")
    rows = 0
    for file in files:
        check_regular(inside(root, str(file.relative_to(root))))
        with _opened(file) as table:
            rows += table.metadata.num_rows
            if missing := [name for name in columns if name not in table.schema_arrow.names]:
                raise UserError(f"{file} has no {missing[0]!r}; {_FIX}")
    if rows != info["total_frames"]:
        raise UserError(f"{root} has {rows} frames, and its meta/info.json says {info['total_frames']}; {_FIX}")
    for name in _episode_files(root, info):
        check_regular(inside(root, name))


def _episode_files(root: Path, info: Mapping[str, Any]) -> list[str]:
    """Names of the files that the episodes refer to."""
    episodes = _read_episodes(root, info)
    names: dict[str, None] = {}
    videos = [key for key, feature in info["features"].items() if feature["dtype"] == "video"]
    if videos and not info.get("video_path"):
        raise UserError(f"meta/info.json of {root} has videos and no video_path; {_FIX}")
    for prefix, template in [("data", info["data_path"]), *((f"videos/{key}", info["video_path"]) for key in videos)]:
        chunks, files = (
            _whole_numbers(episodes, f"{prefix}/{kind}", root / EPISODES) for kind in ("chunk_index", "file_index")
        )
        for chunk, file in set(zip(chunks.tolist(), files.tolist(), strict=True)):
            key = prefix.removeprefix("videos/")
            names[template.format(chunk_index=chunk, file_index=file, video_key=key)] = None
    return list(names)


def _read_episodes(root: Path, info: Mapping[str, Any]) -> pa.Table:
    """The columns of all episodes that say where their frames are."""
    files = sorted((root / EPISODES).glob("*/*.parquet"))
    if not files:
        raise UserError(f"{root} has no {EPISODES}/*/*.parquet; {_FIX}")
    videos = [key for key, feature in info["features"].items() if feature["dtype"] == "video"]
    places = [f"{prefix}/{kind}" for prefix in ("data", *(f"videos/{key}" for key in videos)) for kind in _PLACE]
    try:
        return pa.concat_tables([_read(file, [*_COUNTS, *places]) for file in files])
    except pa.ArrowInvalid as error:
        raise UserError(f"the tables in {root / EPISODES} have different columns; {_FIX}") from error


def _read(file: Path, columns: Sequence[str] | None = None) -> pa.Table:
    check_regular(file)
    with _opened(file) as table:
        if table.metadata.num_rows > 1 << 24:
            raise UserError(f"{file} has {table.metadata.num_rows} rows, more than {1 << 24}; {_FIX}")
        if columns and (missing := [name for name in columns if name not in table.schema_arrow.names]):
            raise UserError(f"{file} has no {missing[0]!r}; {_FIX}")
        try:
            return table.read(columns)
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{file} is damaged ({one_line(error, 100)}); {_FIX}") from error


def _opened(file: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(file)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UserError(f"{file} is damaged ({one_line(error, 100)}); {_FIX}") from error


def _whole_numbers(table: pa.Table, name: str, place: Path) -> np.ndarray:
    """Column of numbers that are at least 0."""
    column = table.column(name) if name in table.column_names else None
    if column is None or column.null_count or not pa.types.is_integer(column.type):
        raise UserError(f"{place} has no whole numbers {name!r}; {_FIX}")
    numbers = column.to_numpy()
    if len(numbers) and numbers.min() < 0:
        raise UserError(f"{place} has negative {name!r}; {_FIX}")
    return numbers
