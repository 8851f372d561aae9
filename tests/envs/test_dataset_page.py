"""inspect_dataset.py: the table and the page of a recording, for good ones, odd ones, and hostile names."""

import json
import re

import pytest

from benchmarks.odd_recordings import KINDS, Kind, write_kind
from envs.report.dataset_page import write_dataset_page
from envs.report.dataset_text import describe_dataset
from policies.data.inspection import inspect_recording
from policies.data.recording import read_recording

HOSTILE = "<script>alert('1')</script> $a_b$"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("odd")


def page_of(root, run_dir):
    recording = read_recording(root)
    page = write_dataset_page(recording, inspect_recording(recording), run_dir, "python inspect_dataset.py").read_text()
    assert re.findall(r"<(?:script|link)\b|(?:src|href)=.?https?:|url\(.?https?:|@import", page) == []
    return page


def test_the_command_prints_a_table_and_writes_a_page(folder, command, tmp_path):
    root = write_kind("motionless_joints", folder)
    code, out, err = command("inspect_dataset", f"dataset.root={root}", f"run_dir={tmp_path / 'look'}")
    assert code == 0, err
    assert "3 of 0.4 to 0.4 s, 36 frames" in out
    assert "front 32x32, wrist 32x32" in out
    assert re.search(r"units: +degrees", out)
    assert "12 x" not in out
    assert "3 x 'pick up the cube and lift it'" in out
    assert "note: wrist_roll.pos, gripper.pos of observation.state stands still" in out
    assert out.splitlines()[-1] == str(tmp_path / "look/report.html")
    page = (tmp_path / "look/report.html").read_text()
    assert page.count("data:image/jpeg") == 3 * 2 * 2  # episodes, cameras, first and last
    assert page.count("<svg") == 6 + 1
    assert "python inspect_dataset.py" in page


@pytest.mark.parametrize(
    "name", ["no_cameras", "other_keys", "nan_in_state", "one_frame_episodes", "depth_camera", "names_none", "webcams"]
)
def test_pages_of_odd_recordings(folder, tmp_path, name):
    root = write_kind(name, folder)
    page = page_of(root, tmp_path)
    recording = read_recording(root)
    findings = inspect_recording(recording)
    table = describe_dataset(recording, findings)
    for finding in findings:
        assert str(finding) in table
        assert finding.kind in ("not finite", "no cameras", "keys", "short episodes", "channels")
    assert ("nothing wrong" in page) == (not findings)


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ([], "give one dataset, dataset.root=<its folder> or dataset.repo_id=user/name"),
        (["dataset.root=none"], "none is not a LeRobotDataset"),
        (["dataset.root=a", "dataset.repo_id=a/b"], "give one dataset"),
    ],
)
def test_mistakes_are_one_line(command, tmp_path, monkeypatch, arguments, what):
    monkeypatch.chdir(tmp_path)
    code, _, err = command("inspect_dataset", *arguments)
    assert code == 2
    assert what in err
    assert len(err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_names_of_strangers_are_text(folder, tmp_path, monkeypatch):
    kind = Kind(instruction=lambda episode: HOSTILE, names=tuple(f"{HOSTILE.replace('/', '')}{i}" for i in range(6)))
    monkeypatch.setitem(KINDS, "hostile", kind)
    page = page_of(write_kind("hostile", folder), tmp_path)
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_images_that_cannot_be_decoded_leave_the_rest(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("envs.report.dataset_page.open_dataset", lambda root: json.loads("broken"))
    page = page_of(write_kind("plain", folder), tmp_path)
    assert "Images: Expecting value" in page
    assert page.count("<svg") == 7
