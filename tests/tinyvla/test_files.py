"""Folders that several processes need at once, and the state after filling a folder has failed."""

import threading
import time

import pytest

from tinyvla.files import fill_folder, write_whole


def test_a_folder_is_filled_once_however_many_want_it(tmp_path):
    folder, fills = tmp_path / "cache", []

    def fill(empty):
        fills.append(empty)
        (empty / "first").touch()
        time.sleep(0.2)
        (empty / "last").touch()

    def want():
        fill_folder(folder, (folder / "last").exists, fill)
        results.append(sorted(path.name for path in folder.iterdir()))

    results: list[list[str]] = []
    threads = [threading.Thread(target=want) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=10)
    assert results == [["first", "last"]] * 3
    assert len(fills) == 1
    assert [path.name for path in tmp_path.iterdir() if path.name != ".lock"] == ["cache"]


def test_a_folder_that_cannot_be_filled_leaves_nothing_and_the_old_one_stands(tmp_path):
    folder = tmp_path / "cache"
    folder.mkdir()
    (folder / "old").touch()

    def fail(empty):
        (empty / "half").touch()
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        fill_folder(folder, lambda: False, fail)
    assert [path.name for path in tmp_path.iterdir() if path.name != ".lock"] == ["cache"]
    assert [path.name for path in folder.iterdir()] == ["old"]


def test_a_file_is_replaced_whole(tmp_path):
    path = write_whole(tmp_path / "new" / "file.txt", "first")
    assert write_whole(path, "zweites: ä") == path
    assert path.read_text(encoding="utf-8") == "zweites: ä"
    assert list(path.parent.iterdir()) == [path]
