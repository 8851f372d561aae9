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
_MAGIC = b"PAR1"  # at both ends of a Parquet file
_FIX = "get a complete copy of the dataset"


def check_finished(root: Path, info: Mapping[str, Any]) -> None:
    """Raise UserError for a recording that broke off: LeRobot writes the end of a table when it is finished.

    Without it none of the table's episodes can be read.
    """
    files = {folder: sorted((root / folder).glob("*/*.parquet")) for folder in (DATA, EPISODES)}
    if all(_has_end(file) for file in files[DATA]):
        return
    closed = [file for file in files[EPISODES] if _has_end(file)]
    lengths = [length for file in closed for length in _whole_numbers(_read(file, ["length"]), "length", file)]
    if sum(lengths) != info["total_frames"]:
        lost = info["total_episodes"] - len(lengths)
        raise UserError(
            f"{root} is a recording that broke off before it was finished: {lost} of its {info['total_episodes']} "
            "episodes have no end and cannot be read; record them again, and end lerobot-record with Esc or Ctrl-C, "
            "which finishes its tables"
        )


def _has_end(file: Path) -> bool:
    """False for a Parquet file that is not finished."""
    check_regular(file)
    with file.open("rb") as content:
        content.seek(-min(file.stat().st_size, len(_MAGIC)), 2)
        return content.read() == _MAGIC


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


def read_columns(root: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Columns of the data of all episodes, in the order of the files: (N, D), or (N,) for single numbers.

    Raises UserError unless a column has numbers, as many in every frame.
    """
    files = sorted((root / DATA).glob("*/*.parquet"))
    try:
        table = pa.concat_tables([_read(file, names) for file in files])
    except pa.ArrowInvalid as error:
        raise UserError(f"the tables in {root / DATA} have different columns; {_FIX}") from error
    return {name: _numbers(table.column(name), name, root) for name in names}


def read_instructions(root: Path) -> list[str]:
    """Instructions of a dataset by the number of the task."""
    tasks = _read(root / TASKS)
    names = next(tasks.column(name) for name in _NAMES if name in tasks.column_names).to_pylist()
    indices = _whole_numbers(tasks, "task_index", root / TASKS)
    return [names[place] for place in np.argsort(indices)]


def read_lengths(root: Path) -> np.ndarray:
    """Number of frames of every episode, (E,)."""
    files = sorted((root / EPISODES).glob("*/*.parquet"))
    return np.concatenate([_whole_numbers(_read(file, ["length"]), "length", file) for file in files])


def _numbers(column: pa.ChunkedArray, name: str, root: Path) -> np.ndarray:
    fault = UserError(f"{name!r} in the data of {root} is not numbers of one size; {_FIX}")
    sizes: list[int] = []
    array: Any = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):  # of several chunks, or none
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], column.type)
    while pa.types.is_list(array.type) or pa.types.is_large_list(array.type) or pa.types.is_fixed_size_list(array.type):
        rows, values = len(array), array.flatten()
        if array.null_count or not rows or len(values) % rows:
            raise fault
        if not pa.types.is_fixed_size_list(array.type) and len(set(np.diff(array.offsets.to_numpy()).tolist())) > 1:
            raise fault
        sizes.append(len(values) // rows)
        array = values
    is_number = pa.types.is_integer(array.type) or pa.types.is_floating(array.type) or pa.types.is_boolean(array.type)
    if array.null_count or not is_number:
        raise fault
    numbers = array.to_numpy(zero_copy_only=False)
    return numbers.reshape(len(column), -1) if sizes else numbers


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
