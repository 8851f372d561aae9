"""Sets of labelled images on disk: drawn once, by whomever, resumed, checked, and told apart from damaged ones."""

import errno
import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from envs.scenes import contact_sheet, image_store, open_labelled_images
from tinyvla.errors import UserError

ROOT = Path(__file__).parents[2]
SMALL = {"kind": "table", "split": "test", "image_size": 32}


def same(a, b):
    arrays = ("images", "instances", "depth")
    return a.labels == b.labels and all(np.array_equal(getattr(a, name), getattr(b, name)) for name in arrays)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder with 64 images, drawn in this process."""
    folder = tmp_path_factory.mktemp("data")
    open_labelled_images(**SMALL, count=64, data_dir=folder, workers=1)
    return folder


def folder_of(data_dir):
    return next((data_dir / "scenes").iterdir())


@pytest.fixture
def no_drawing(monkeypatch):
    def fail(*_):
        raise AssertionError("something was drawn")

    monkeypatch.setattr(image_store, "make_generator", fail)


def test_what_a_set_looks_like(whole, no_drawing):
    scenes = open_labelled_images(**SMALL, count=40, data_dir=whole)
    assert len(scenes) == len(scenes.labels) == 40
    assert (scenes.images.shape, scenes.images.dtype) == ((40, 32, 32, 3), np.uint8)
    assert (scenes.depth.shape, scenes.depth.dtype) == ((40, 32, 32), np.float16)
    assert (scenes.instances.shape, scenes.instances.dtype) == ((40, 32, 32), np.uint8)
    assert len({label["seed"] for label in scenes.labels}) == 40
    assert isinstance(scenes.images, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        scenes.images[0, 0, 0, 0] = 0


@pytest.mark.parametrize("place", ["", "labels", "images.bin", "labels/000000.json"])
def test_images_elsewhere_are_not_read(place, whole, tmp_path, no_drawing):
    shutil.copytree(whole / "scenes", tmp_path / "data/scenes")
    path = folder_of(tmp_path / "data") / place
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="outside of it"):
        open_labelled_images(**SMALL, count=40, data_dir=tmp_path / "data", workers=1)


def test_other_processes_draw_the_same_images(whole, tmp_path):
    assert same(
        open_labelled_images(**SMALL, count=64, data_dir=tmp_path, workers=2),
        open_labelled_images(**SMALL, count=64, data_dir=whole),
    )


KILLED = """
import sys
from pathlib import Path
from envs.scenes import open_labelled_images

open_labelled_images("table", "test", 3200, 32, data_dir=Path(sys.argv[1]), workers=1)
"""


def test_a_killed_run_goes_on_where_it_stopped(whole, tmp_path, monkeypatch):
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], cwd=ROOT, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 60
        while not list(tmp_path.glob("scenes/*/labels/*.json")) and time.monotonic() < end:
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    finished = {path.name for path in tmp_path.glob("scenes/*/labels/*.json")}
    assert finished
    drawn, draw = [], image_store._images
    monkeypatch.setattr(image_store, "_images", lambda *a: drawn.append(f"{a[-1]:06d}.json") or draw(*a))
    assert same(
        open_labelled_images(**SMALL, count=64, data_dir=tmp_path, workers=1),
        open_labelled_images(**SMALL, count=64, data_dir=whole),
    )
    assert not finished & set(drawn)


def test_a_larger_count_keeps_what_is_there(whole, tmp_path, monkeypatch):
    few = open_labelled_images(**SMALL, count=3, data_dir=tmp_path, workers=1)
    drawn, draw = [], image_store._images
    monkeypatch.setattr(image_store, "_images", lambda *a: drawn.append(a[-1]) or draw(*a))
    more = open_labelled_images(**SMALL, count=33, data_dir=tmp_path, workers=1)
    assert drawn == [1]
    assert few.labels == more.labels[:3]
    assert np.array_equal(few.images, more.images[:3])
    assert same(more, open_labelled_images(**SMALL, count=33, data_dir=whole))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"kind": "tabel"}, "no kind 'tabel' of scenes; use one of table, room"),
        ({"split": "eval"}, "no split 'eval' of scenes; use one of train, validation, test"),
        ({"image_size": 16}, "image_size is 16; use 32 to 1024 pixels"),
        ({"image_size": 96.0}, "image_size is 96.0; use 32 to 1024"),
        ({"count": 0}, "count is 0; ask for at least 1"),
        ({"seed": -1}, "seed is -1; use one from 0"),
        ({"workers": 0}, "workers is 0; use auto or a number from 1"),
    ],
)
def test_wrong_arguments(wrong, message, tmp_path, no_drawing):
    with pytest.raises(UserError, match=message) as error:
        open_labelled_images(**{**SMALL, "data_dir": tmp_path, **wrong})
    assert "\n" not in str(error.value)


@pytest.fixture
def damaged(whole, tmp_path):
    """A copy of the folder to damage."""
    subprocess.run(["cp", "-r", str(whole / "scenes"), str(tmp_path)], check=True)
    return tmp_path


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("images.bin", flip),
        ("depth.bin", lambda path: os.truncate(path, path.stat().st_size - 1)),
        ("instances.bin", Path.unlink),
        ("labels/000001.json", lambda path: os.truncate(path, 100)),
        ("labels/000000.json", lambda path: path.write_text("[]")),
        ("labels/000000.json", lambda path: (path.unlink(), path.mkdir())),
        ("images.bin", lambda path: (path.unlink(), os.mkfifo(path))),
        ("depth.bin", lambda path: (path.unlink(), path.mkdir())),
    ],
)
def test_damaged_images_are_drawn_again(damaged, file, damage):
    original = open_labelled_images(**SMALL, count=64, data_dir=damaged)
    images, labels = original.images.copy(), original.labels
    damage(folder_of(damaged) / file)
    fixed = open_labelled_images(**SMALL, count=64, data_dir=damaged, workers=1)
    np.testing.assert_array_equal(fixed.images, images)
    assert fixed.labels == labels


def test_a_disk_that_damages_images_again_is_one_line(damaged, monkeypatch):
    numbers = itertools.count()
    monkeypatch.setattr(image_store.zlib, "crc32", lambda _: next(numbers))
    with pytest.raises(UserError, match="damaged again after they were drawn"):
        open_labelled_images(**SMALL, count=64, data_dir=damaged, workers=1)


def test_a_disk_that_is_too_small(tmp_path, monkeypatch, no_drawing):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(UserError, match=r"need 0\.\d+ GB but .* has 0\.00 GB free; free some space"):
        open_labelled_images(**SMALL, count=4000, data_dir=tmp_path, workers=1)


def test_a_disk_that_fills_up(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(image_store, "write_whole", full)
    with pytest.raises(UserError, match="the disk is full; free some space"):
        open_labelled_images(**SMALL, count=1, data_dir=tmp_path, workers=1)


def test_the_sheet(whole, tmp_path, no_drawing, capsys):
    out = tmp_path / "new" / "sheet.png"
    settings = ["split=test", "image_size=32", f"data_dir={whole}", f"out={out}", "images=7"]
    contact_sheet.main(settings)
    assert out.stat().st_size > 1000
    assert capsys.readouterr().out == f"{out}\n"
    with pytest.raises(UserError, match="no setting image; use one of kind, split"):
        contact_sheet.main(["image=3"])
    with pytest.raises(UserError, match="images is 'many'; give a number"):
        contact_sheet.main(["images=many"])
