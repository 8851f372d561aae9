"""Damaged and hostile tables of datasets: one line, and nothing is looked for on the model hub."""

import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny import write_dataset

from policies.data import open_dataset, open_metadata
from policies.data.dataset_files import check_dataset_files
from tinyvla.errors import UserError

TASKS, EPISODES = "meta/tasks.parquet", "meta/episodes/chunk-000/file-000.parquet"
DATA, VIDEO = "data/chunk-000/file-000.parquet", "videos/observation.images.left/chunk-000/file-000.mp4"


@pytest.fixture(scope="module")
def video_root(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("videos") / "tiny", video=True)


@pytest.fixture
def root(video_root, tmp_path, monkeypatch):
    """A copy to damage, beside a hub that may not be asked."""

    def ask(*_, **__):
        raise AssertionError("the hub was asked for a missing file")

    for module in ("dataset_metadata", "lerobot_dataset"):
        monkeypatch.setattr(f"lerobot.datasets.{module}.snapshot_download", ask)
        monkeypatch.setattr(f"lerobot.datasets.{module}.get_safe_version", ask)
    return shutil.copytree(video_root, tmp_path / "tiny")


def change(column, values):
    def damage(file):
        table = pq.read_table(file, partitioning=None)
        old = table.column(column)
        new = pa.array(values(old.to_pylist()))
        pq.write_table(table.set_column(table.column_names.index(column), column, new), file)

    return damage


def drop(column):
    return lambda file: pq.write_table(pq.read_table(file, partitioning=None).drop_columns([column]), file)


def cut(file):
    file.write_bytes(file.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        (TASKS, lambda file: file.unlink(), "tasks.parquet cannot be read"),
        (TASKS, cut, "tasks.parquet is damaged"),
        (TASKS, change("task", lambda names: [1] * len(names)), "has no instructions"),
        (TASKS, change("task_index", lambda numbers: [7] * len(numbers)), "does not number its tasks"),
        (EPISODES, lambda file: file.unlink(), "has no meta/episodes"),
        (EPISODES, cut, "file-000.parquet is damaged"),
        (EPISODES, change("length", lambda lengths: [1 << 40] * len(lengths)), "do not add up to the 99 frames"),
        (EPISODES, change("dataset_from_index", lambda starts: [-1] * len(starts)), "negative 'dataset_from_index'"),
        (
            EPISODES,
            change("data/file_index", lambda files: ["../x"] * len(files)),
            "no whole numbers",
        ),
        (EPISODES, change("data/file_index", lambda files: [5] * len(files)), "data/chunk-000/file-005.parquet cannot"),
        (DATA, lambda file: file.unlink(), "has no data"),
        (DATA, cut, "file-000.parquet is damaged"),
        (DATA, drop("action"), "has no 'action'"),
        (DATA, drop("task_index"), "has no 'task_index'"),
        (DATA, lambda file: pq.write_table(pq.read_table(file, partitioning=None).slice(1), file), "has 98 frames"),
        (VIDEO, lambda file: file.unlink(), "file-000.mp4 cannot be read"),
    ],
)
def test_a_damaged_table_is_one_line(root, name, damage, message):
    damage(root / name)
    for read in (open_dataset, lambda folder: open_metadata(None, str(folder))):
        with pytest.raises(UserError, match=message) as mistake:
            read(root)
        assert "\n" not in str(mistake.value)


@pytest.mark.parametrize(
    ("statistic", "value"),
    [("q50", [10**30] * 4), ("q50", "!!python/object:os.system"), ("mean", [[1], [1, 2]]), ("std", [float("nan")] * 4)],
)
def test_statistics_are_numbers(root, statistic, value):
    file = root / "meta/stats.json"
    content = json.loads(file.read_text())
    content["observation.state"][statistic] = value
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"observation.state.*stats.json"):
        check_dataset_files(root)


@pytest.mark.parametrize("value", [-1, float("-inf"), 2**70, True, "many", None])
def test_sizes_are_whole_numbers(root, value):
    file = root / "meta/info.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"total_tasks": value}))
    with pytest.raises(UserError, match=r"total_tasks in .*info.json is"):
        check_dataset_files(root)
