"""A LeRobotDataset that is a part of others, with other names: its own tables, and their videos by hard links."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from lerobot.datasets.compute_stats import aggregate_stats

from tinyvla.errors import UserError, one_line
from tinyvla.files import fill_folder, write_whole
from tinyvla.untrusted import inside

from .dataset_files import INFO, STATS, as_lists, fingerprint
from .dataset_tables import EPISODES, TASKS
from .selection import FRAME_COLUMNS, Source, select
from .settings import DatasetConfig
from .streaming import open_metadata

ORIGIN = "meta/made_from.json"  # the datasets and episodes that a view shows
_FILES_PER_CHUNK = 1000
_DATA = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
_VIDEO = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"

type Row = dict[str, Any]  # of the table of episodes


def find_part(dataset: DatasetConfig, roots: Sequence[Path], data_dir: Path) -> Path:
    """Folder of the dataset that settings choose: the only one as it is, or a view in `data_dir`, which is made once.

    Raises UserError for what cannot be chosen, see `select`.
    """
    if not dataset.is_selection:
        return roots[0]
    sources = select(dataset, [open_metadata(None, str(root)) for root in roots])
    unused = {key for source in sources for key in source.meta.features.keys() - source.names.keys()}
    if unused := unused.difference(FRAME_COLUMNS, *(source.meta.camera_keys for source in sources)):
        print(f"not in all of the datasets, and left out: {', '.join(sorted(unused))}", flush=True)
    return write_view(sources, data_dir)


def write_view(sources: Sequence[Source], folder: Path) -> Path:
    """Folder of the dataset that `sources` describe, below `folder`; it is written once.

    Its tables are new; its videos are those of the sources under second names, which takes no room on the same disk.

    Raises UserError if it cannot be written.
    """
    origin = [
        {"root": str(source.meta.root), "fingerprint": fingerprint(source.meta.root)}
        | {"names": dict(source.names), "episodes": list(source.episodes)}
        for source in sources
    ]
    digest = hashlib.sha256(json.dumps([{**entry, "root": ""} for entry in origin], sort_keys=True).encode())
    names = dict.fromkeys(Path(source.meta.root).resolve().name for source in sources)
    root = folder / f"{'+'.join(list(names)[:3])}-{digest.hexdigest()[:8]}"

    def fill(empty: Path) -> None:
        _View(sources, empty).write()
        (empty / ORIGIN).write_text(json.dumps(origin, indent=1))

    try:
        fill_folder(root, (root / INFO).is_file, fill)
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        raise UserError(
            f"the chosen part of the dataset cannot be written to {root} ({one_line(error)}); free some space, choose "
            "another data_dir, or get a complete copy of the dataset"
        ) from error
    return root


class _View:
    """Writer of a view's files: the next free numbers of frames, episodes, tasks and files."""

    def __init__(self, sources: Sequence[Source], root: Path) -> None:
        self._sources, self._root = sources, root
        self._tasks: dict[str, int] = {}
        self._rows: list[Row] = []
        self._frames = 0
        self._data_files = 0
        self._videos: dict[str, int] = {}  # number of files by new key

    def write(self) -> None:
        stats = []
        for source in self._sources:
            rows = {row["episode_index"]: row for row in _episode_rows(Path(source.meta.root))}
            files = _by_file([rows[number] for number in source.episodes], "data")
            chosen = [row for _, group in files for row in group]
            new_rows = self._write_data(source, chosen)
            for key, new in source.names.items():
                if source.meta.features[key]["dtype"] == "video":
                    self._link_videos(source, key, new, chosen, new_rows)
            stats += _statistics(source, chosen)
            for row, new_row in zip(chosen, new_rows, strict=True):
                self._rows.append(new_row | _renamed_statistics(row, source.names))
        self._write_tables(aggregate_stats(stats) if len(stats) > 1 else stats[0])

    def _write_data(self, source: Source, rows: Sequence[Row]) -> list[Row]:
        """Write the frames of episodes, in order of their files, with new numbers; returns their new rows."""
        template, root = str(source.meta.info.data_path), Path(source.meta.root)
        columns = {key: new for key, new in source.names.items() if source.meta.features[key]["dtype"] != "video"}
        columns |= dict(zip(FRAME_COLUMNS, FRAME_COLUMNS, strict=True))
        tasks = dict(zip(source.meta.tasks["task_index"], source.meta.tasks.index, strict=True))
        new_rows: list[Row] = []
        for place, group in _by_file(rows, "data"):
            table = pq.read_table(inside(root, template.format(**place)), columns=list(columns))
            table = table.rename_columns([columns[name] for name in table.column_names])
            chunk, file = divmod(self._data_files, _FILES_PER_CHUNK)
            episodes = []
            for row in group:
                frames = table.filter(pc.equal(table["episode_index"], row["episode_index"]))
                texts = [tasks[index] for index in frames["task_index"].to_pylist()]
                number, start = len(self._rows) + len(new_rows), self._frames
                episodes.append(self._renumbered(frames, texts, number))
                new_rows.append(
                    {"episode_index": number, "tasks": list(dict.fromkeys(texts)), "length": len(frames)}
                    | {"dataset_from_index": start, "dataset_to_index": self._frames}
                    | {"data/chunk_index": chunk, "data/file_index": file}
                    | {"meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0}
                )
            target = self._root / _DATA.format(chunk_index=chunk, file_index=file)
            target.parent.mkdir(parents=True, exist_ok=True)
            # The schema's metadata describe the old names, and LeRobot reads the features from info.json.
            pq.write_table(pa.concat_tables(episodes).replace_schema_metadata(None), target)
            self._data_files += 1
        return new_rows

    def _renumbered(self, frames: pa.Table, texts: Sequence[str], episode: int) -> pa.Table:
        count = len(frames)
        columns = {
            "episode_index": np.full(count, episode),
            "index": np.arange(self._frames, self._frames + count),
            "task_index": np.array([self._tasks.setdefault(text, len(self._tasks)) for text in texts], np.int64),
        }
        self._frames += count
        for name, values in columns.items():
            frames = frames.set_column(frames.column_names.index(name), name, pa.array(values, pa.int64()))
        return frames

    def _link_videos(self, source: Source, key: str, new: str, rows: Sequence[Row], new_rows: Sequence[Row]) -> None:
        """Give the videos of a camera second names, and enter them in the episodes' new rows."""
        template, root = str(source.meta.info.video_path), Path(source.meta.root)
        new_of = dict(zip((row["episode_index"] for row in rows), new_rows, strict=True))
        for place, group in _by_file(rows, f"videos/{key}"):
            number = self._videos.get(new, 0)
            self._videos[new] = number + 1
            chunk, file = divmod(number, _FILES_PER_CHUNK)
            target = self._root / _VIDEO.format(video_key=new, chunk_index=chunk, file_index=file)
            target.parent.mkdir(parents=True, exist_ok=True)
            _link(inside(root, template.format(video_key=key, **place)), target)
            for row in group:
                new_of[row["episode_index"]] |= {
                    f"videos/{new}/chunk_index": chunk,
                    f"videos/{new}/file_index": file,
                    f"videos/{new}/from_timestamp": row[f"videos/{key}/from_timestamp"],
                    f"videos/{new}/to_timestamp": row[f"videos/{key}/to_timestamp"],
                }

    def _write_tables(self, stats: Mapping[str, Mapping[str, Any]]) -> None:
        first = self._sources[0]
        info = json.loads((Path(first.meta.root) / INFO).read_text())
        features = {new: info["features"][key] for key, new in first.names.items()}
        info |= {
            "features": features | {key: info["features"][key] for key in FRAME_COLUMNS},
            "total_episodes": len(self._rows),
            "total_frames": self._frames,
            "total_tasks": len(self._tasks),
            "splits": {"train": f"0:{len(self._rows)}"},
            "data_path": _DATA,
            "video_path": _VIDEO if self._videos else None,
            "chunks_size": _FILES_PER_CHUNK,
        }
        episodes = self._root / EPISODES / "chunk-000/file-000.parquet"
        episodes.parent.mkdir(parents=True)
        keys = set.intersection(*(set(row) for row in self._rows))  # statistics that all sources have
        pq.write_table(
            pa.Table.from_pylist([{k: v for k, v in row.items() if k in keys} for row in self._rows]), episodes
        )
        tasks = pd.DataFrame({"task_index": list(self._tasks.values())}, index=pd.Index(self._tasks, name="task"))
        tasks.to_parquet(self._root / TASKS)
        write_whole(self._root / STATS, json.dumps(as_lists(stats)))
        write_whole(self._root / INFO, json.dumps(info, indent=4))


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or a file system without links
        shutil.copyfile(source, target)


def _episode_rows(root: Path) -> list[Row]:
    """Rows of a dataset's table of episodes."""
    return [row for file in sorted((root / EPISODES).glob("*/*.parquet")) for row in pq.read_table(file).to_pylist()]


def _by_file(rows: Sequence[Row], prefix: str) -> Iterator[tuple[dict[str, int], list[Row]]]:
    """Consecutive episodes of one file: its place, as a template of paths takes it, and their rows."""
    groups: dict[tuple[int, int], list[Row]] = {}
    for row in rows:
        groups.setdefault((row[f"{prefix}/chunk_index"], row[f"{prefix}/file_index"]), []).append(row)
    for (chunk, file), group in groups.items():
        yield {"chunk_index": chunk, "file_index": file}, group


def _renamed_statistics(row: Row, names: Mapping[str, str]) -> Row:
    """Columns of an episode's statistics, by the new keys of their features."""
    renamed = {}
    for column, value in row.items():
        prefix, _, rest = column.partition("/")
        key, _, kind = rest.rpartition("/")
        if prefix == "stats" and (key in names or key in FRAME_COLUMNS):
            renamed[f"stats/{names.get(key, key)}/{kind}"] = value
    return renamed


def _statistics(source: Source, rows: Sequence[Row]) -> list[dict[str, dict[str, np.ndarray]]]:
    """Statistics of the features that are used: of the dataset, or of the chosen episodes, each of them, if known."""
    whole = {source.names.get(key, key): kinds for key, kinds in (source.meta.stats or {}).items()}
    whole = {key: kinds for key, kinds in whole.items() if key in source.features or key in FRAME_COLUMNS}
    if source.is_whole:
        return [whole]
    episodes = []
    for row in rows:
        stats: dict[str, dict[str, np.ndarray]] = {}
        for column, value in _renamed_statistics(row, source.names).items():
            key, _, kind = column.removeprefix("stats/").rpartition("/")
            if value is not None:
                stats.setdefault(key, {})[kind] = np.array(value)
        episodes.append(stats)
    return episodes if all(set(source.features) & set(whole) <= set(stats) for stats in episodes) else [whole]
