"""Folders that several processes need at once, and the state after filling a folder has failed."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from tinyvla.errors import UserError
from tinyvla.files import alone_in, fill_folder, write_whole


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


def test_a_link_in_the_place_of_a_folder_is_replaced(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/done").touch()
    folder = tmp_path / "cache"
    folder.symlink_to(tmp_path / "elsewhere")
    fill_folder(folder, (folder / "done").exists, lambda empty: (empty / "done").write_text("new"))
    assert not folder.is_symlink()
    assert (folder / "done").read_text() == "new"
    assert (tmp_path / "elsewhere/done").read_text() == ""


def test_a_file_is_replaced_whole(tmp_path):
    path = write_whole(tmp_path / "new" / "file.txt", "first")
    assert write_whole(path, "zweites: ä") == path
    assert path.read_text(encoding="utf-8") == "zweites: ä"
    assert list(path.parent.iterdir()) == [path]


def test_what_a_killed_writer_left_is_removed_and_a_living_ones_file_stays(tmp_path):
    ended = subprocess.Popen(["true"])
    ended.wait()
    (tmp_path / f".tmp-{ended.pid}-0a1b").write_text("half")
    living = tmp_path / f".tmp-{os.getpid()}-0a1b"
    living.write_text("half")
    write_whole(tmp_path / "file", "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == [living.name, "file"]


def test_a_file_that_cannot_be_replaced_leaves_nothing(tmp_path):
    (tmp_path / "file").mkdir()
    with pytest.raises(IsADirectoryError):
        write_whole(tmp_path / "file", "content")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


HOLD = """
import os, sys, time
from pathlib import Path
from tinyvla.files import alone_in
with alone_in(Path(sys.argv[1]), wait=False):
    child = os.fork() if sys.argv[2:] else None
    if not child:  # the child itself says that it lives: by then it has closed its copy of the lock
        print(os.getpid(), flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("with_child", [False, True])
def test_one_process_at_a_time_until_it_is_killed(with_child, tmp_path):
    """A child that outlives the process does not keep the folder locked."""
    folder = tmp_path / "new" / "run"
    command = [sys.executable, "-c", HOLD, folder, *(["child"] if with_child else [])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        child = holder.stdout.readline().strip()
        with pytest.raises(UserError, match=r"another process is at work in .*run; wait") as mistake:
            lock_at_once(folder)
        assert "\n" not in str(mistake.value)
        holder.kill()
        holder.wait()
        try:
            lock_at_once(folder)
        finally:
            if with_child:
                os.kill(int(child), signal.SIGKILL)
    assert list(tmp_path.iterdir()) == [tmp_path / "new"]
    assert list(folder.iterdir()) == []


def lock_at_once(folder):
    with alone_in(folder, wait=False):
        pass


def test_a_locked_folder_that_stays_empty_is_removed(tmp_path):
    with alone_in(tmp_path / "a" / "b"):
        pass
    assert list(tmp_path.iterdir()) == []
    with alone_in(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b" / "result").touch()
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["result"]


@pytest.mark.parametrize("obstacle", ["file", "link"])
def test_a_folder_that_cannot_be_locked_is_one_line(obstacle, tmp_path):
    if obstacle == "file":
        (tmp_path / "run").touch()
    else:
        (tmp_path / "run").mkdir()
        (tmp_path / "run/.run.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"run cannot be written .*; choose another folder"):
        lock_at_once(tmp_path / "run")
    assert not (tmp_path / "elsewhere").exists()
