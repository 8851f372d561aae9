"""Files from strangers: bounded, checked, and no way out of their folder."""

import os
from pathlib import Path

import pytest

from tinyvla.errors import UserError
from tinyvla.untrusted import check_links, check_regular, inside, read_json, read_json_object


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "secret.json").write_text("{}")
    (tmp_path / "model" / "assets").mkdir(parents=True)
    (tmp_path / "model" / "config.json").write_text('{"a": 1}')
    return tmp_path / "model"


@pytest.mark.parametrize("name", ["../secret.json", "assets/../../secret.json", "/etc/passwd", "a\0b"])
def test_a_name_that_leads_out_of_the_folder_is_refused(folder: Path, name: str) -> None:
    with pytest.raises(UserError, match="outside of it"):
        inside(folder, name)


def test_links_inside_the_folder_are_followed_and_others_refused(folder: Path) -> None:
    (folder / "assets" / "same.json").symlink_to("../config.json")
    assert inside(folder, "assets/same.json").read_text() == '{"a": 1}'
    check_links(folder)
    (folder / "assets" / "out.json").symlink_to("../../secret.json")
    with pytest.raises(UserError, match=r"assets/out\.json, which is outside"):
        check_links(folder)


def test_a_snapshot_of_the_hubs_cache_may_link_to_its_own_blobs_only(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--user--name" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    blobs = tmp_path / "models--user--name" / "blobs"
    blobs.mkdir()
    (blobs / "123").write_text("{}")
    (tmp_path / "other.json").write_text("{}")
    (snapshot / "config.json").symlink_to("../../blobs/123")
    assert read_json(inside(snapshot, "config.json")) == {}
    (snapshot / "other.json").symlink_to("../../../other.json")
    with pytest.raises(UserError, match="outside of it"):
        inside(snapshot, "other.json")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "JSONDecodeError"),
        (b'{"a": 1', "JSONDecodeError"),
        (b"\xff\xfe\x00", "UnicodeDecodeError|JSONDecodeError"),
        (b"[" * 200_000, "RecursionError|JSONDecodeError"),
        (b"1" * 5000, "ValueError"),
        (b"[1]", "holds a list where an object belongs"),
        (b"{" + b" " * 2000 + b"}", "more than"),
    ],
)
def test_damaged_json_is_one_line(tmp_path: Path, content: bytes, reason: str) -> None:
    file = tmp_path / "config.json"
    file.write_bytes(content)
    with pytest.raises(UserError, match=reason) as raised:
        read_json_object(file, limit=1000 if b"  " in content else 1 << 20)
    assert "\n" not in str(raised.value)


def test_a_pipe_or_a_device_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(UserError, match="not a regular file"):
        read_json(tmp_path / "config.json")
    with pytest.raises(UserError, match="not a regular file"):
        read_json(Path("/dev/zero"))


def test_a_link_to_itself_is_one_line(folder: Path) -> None:
    (folder / "loop").symlink_to("loop")
    for read in (lambda: inside(folder, "loop"), lambda: check_links(folder), lambda: check_regular(folder / "loop")):
        with pytest.raises(UserError, match="loop") as mistake:
            read()
        assert "\n" not in str(mistake.value)
