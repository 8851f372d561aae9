"""A run's dataset: recognised when the run is resumed, and normalised as when the run began."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from lerobot.datasets import LeRobotDatasetMetadata

from policies.data import open_dataset
from policies.data.dataset_files import STATS, check_dataset_files, fingerprint
from policies.data.run_dataset import FILE, keep_statistics
from tinyvla.errors import UserError


@pytest.fixture
def copy(dataset_root: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(dataset_root, tmp_path / "copy"))


def metadata(root: Path) -> LeRobotDatasetMetadata:
    return LeRobotDatasetMetadata("local/copy", root)


def edit(file: Path, **changes: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def widen(root: Path) -> None:
    """Give the actions three times their range, as further episodes would."""
    stats = json.loads((root / STATS).read_text())
    stats["action"] = {kind: (3 * np.asarray(values)).tolist() for kind, values in stats["action"].items()}
    (root / STATS).write_text(json.dumps(stats))


def test_a_resumed_run_has_the_statistics_that_it_began_with(copy: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    began_with = keep_statistics(run, metadata(copy))
    for name, kinds in metadata(copy).stats.items():
        for kind, values in kinds.items():
            np.testing.assert_array_equal(began_with[name][kind], values)
    assert keep_statistics(run, metadata(copy))["action"]["max"].tolist() == began_with["action"]["max"].tolist()


def test_a_changed_dataset_is_refused_or_taken_with_the_runs_own_statistics(copy, tmp_path, capsys) -> None:
    run = tmp_path / "run"
    began_with = keep_statistics(run, metadata(copy))
    widen(copy)
    stored = (run / FILE).read_bytes()
    with pytest.raises(UserError, match=r"has changed since this run began .*dataset\.accept_changed=true"):
        keep_statistics(run, metadata(copy))
    assert (run / FILE).read_bytes() == stored
    accepted = keep_statistics(run, metadata(copy), accept_changed=True)
    assert accepted["action"]["max"].tolist() == began_with["action"]["max"].tolist()
    assert capsys.readouterr().out.count("\n") == 1
    keep_statistics(run, metadata(copy))  # it is the run's dataset from now on


def test_a_copy_has_the_same_fingerprint_and_another_dataset_has_not(copy: Path, dataset_root: Path) -> None:
    assert fingerprint(copy) == fingerprint(dataset_root)
    widen(copy)
    assert fingerprint(copy) != fingerprint(dataset_root)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"stats": 3}', '{"stats": {"action": 3}}'])
def test_a_damaged_record_is_one_line(copy: Path, tmp_path: Path, content: str) -> None:
    (tmp_path / FILE).write_text(content)
    with pytest.raises(UserError):
        keep_statistics(tmp_path, metadata(copy))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"data_path": "../../{file_index}.parquet"}, "leads out"),
        ({"data_path": "/etc/{file_index}"}, "leads out"),
        ({"video_path": "videos/{video_key.__class__}/{file_index}.mp4"}, "placeholders"),
        ({"video_path": "videos/{video_key}/{file_index:999999999d}.mp4"}, "placeholders"),
        ({"data_path": "data/{file_index"}, "placeholders"),
        ({"data_path": 7}, "is not a text"),
        ({"fps": 0}, "fps"),
        ({"fps": float("nan")}, "fps"),
        ({"fps": "30"}, "fps"),
        ({"total_frames": -1}, "total_frames"),
        ({"total_frames": 1e400}, "total_frames"),
        ({"features": []}, "no features"),
        ({"features": {"../x": {"dtype": "float32", "shape": [2]}}}, "cannot be"),
        ({"features": {"action": {"dtype": "object", "shape": [2]}}}, "cannot be"),
        ({"features": {"action": {"dtype": "float32", "shape": [1 << 20, 1 << 20]}}}, "cannot be"),
        ({"features": {"action": None}}, "cannot be"),
        ({"codebase_version": "v2.1"}, "convert"),
        ({"codebase_version": None}, "convert"),
    ],
)
def test_metadata_that_cannot_be_is_one_line(copy: Path, changes: dict, reason: str) -> None:
    check_dataset_files(copy)
    edit(copy / "meta/info.json", **changes)
    with pytest.raises(UserError, match=reason) as mistake:
        check_dataset_files(copy)
    assert "\n" not in str(mistake.value)


def test_statistics_with_nan_name_the_feature(copy: Path) -> None:
    stats = json.loads((copy / STATS).read_text())
    stats["action"]["max"][0] = float("nan")
    (copy / STATS).write_text(json.dumps(stats))
    with pytest.raises(UserError, match="the max of 'action'"):
        check_dataset_files(copy)


def test_a_link_that_leaves_the_dataset_is_refused(copy: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (copy / "data" / "link.parquet").symlink_to(tmp_path / "secret")
    with pytest.raises(UserError, match=r"link\.parquet, which is outside"):
        check_dataset_files(copy)


def test_a_cut_table_is_one_line_and_nothing_else_is_printed(copy: Path, capfd: pytest.CaptureFixture[str]) -> None:
    table = next(copy.glob("data/*/*.parquet"))
    table.write_bytes(table.read_bytes()[:500])
    capfd.readouterr()
    with pytest.raises(UserError, match=r"file-000\.parquet is damaged"):
        open_dataset(copy)
    assert capfd.readouterr() == ("", "")
