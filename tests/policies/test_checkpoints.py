"""Checkpoints of a run: whole or not at all, the last and the best, and damaged ones answered in one line."""

import errno
import os

import pytest
import torch
from tiny import write_checkpoint

from tinyvla.errors import UserError
from tinyvla.training.checkpoint import last_step, read_last_state


def content(run_dir):
    """Names below `checkpoints`, links as name -> target."""
    checkpoints = run_dir / "checkpoints"
    return {
        path.name: os.readlink(path) if path.is_symlink() else sorted(file.name for file in path.iterdir())
        for path in checkpoints.iterdir()
    }


WHOLE = ["pretrained_model", "training_state"]


def test_the_last_and_the_best_are_kept(tmp_path):
    assert last_step(tmp_path) == 0
    assert read_last_state(tmp_path) is None
    write_checkpoint(tmp_path, 5, is_best=True)
    assert content(tmp_path) == {"000005": WHOLE, "last": "000005", "best": "000005"}
    write_checkpoint(tmp_path, 10)
    assert content(tmp_path) == {"000005": WHOLE, "000010": WHOLE, "last": "000010", "best": "000005"}
    write_checkpoint(tmp_path, 15)
    assert content(tmp_path) == {"000005": WHOLE, "000015": WHOLE, "last": "000015", "best": "000005"}
    write_checkpoint(tmp_path, 20, is_best=True)
    assert content(tmp_path) == {"000020": WHOLE, "last": "000020", "best": "000020"}
    assert last_step(tmp_path) == 20
    assert len(read_last_state(tmp_path)["weights"]) == 20


def test_steps_of_seven_digits_come_after_those_of_six(tmp_path):
    write_checkpoint(tmp_path, 999_999)
    write_checkpoint(tmp_path, 1_000_000)
    assert last_step(tmp_path) == 1_000_000
    assert content(tmp_path) == {"1000000": WHOLE, "last": "1000000"}


def test_a_failure_half_way_leaves_the_old_one_alone(tmp_path):
    write_checkpoint(tmp_path, 5, is_best=True)
    before = content(tmp_path)
    with pytest.raises(ZeroDivisionError):
        write_checkpoint(tmp_path, 10, during=lambda folder: 1 / 0)
    assert content(tmp_path) == before
    assert read_last_state(tmp_path)["step"] == 5


def test_what_a_killed_writer_left_is_no_checkpoint_and_is_cleared(tmp_path):
    write_checkpoint(tmp_path, 5)
    left = tmp_path / "checkpoints" / ".000010.tmp" / "pretrained_model"
    left.mkdir(parents=True)
    (left / "half").touch()
    assert last_step(tmp_path) == 5
    write_checkpoint(tmp_path, 10)
    assert content(tmp_path) == {"000010": WHOLE, "last": "000010"}
    assert [file.name for file in (tmp_path / "checkpoints/last/pretrained_model").iterdir()] == ["config.json"]


@pytest.mark.parametrize("where", ["policy", "state", "folder"])
def test_a_full_disk_is_one_line_and_leaves_the_old_one_alone(where, tmp_path, monkeypatch):
    write_checkpoint(tmp_path, 5, is_best=True)
    before = content(tmp_path)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    def broken_save(*_):  # as torch puts it
        raise RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0")

    if where == "state":
        monkeypatch.setattr(torch, "save", broken_save)
    if where == "folder":
        (tmp_path / "checkpoints").rename(tmp_path / "moved")
        (tmp_path / "checkpoints").write_text("in the way")
    with pytest.raises(UserError, match=r"000010 could not be written .*free some space.*resume=true") as mistake:
        write_checkpoint(tmp_path, 10, is_best=True, during=full if where == "policy" else None)
    assert "\n" not in str(mistake.value)
    if where != "folder":
        assert content(tmp_path) == before


def test_an_error_in_the_program_is_not_blamed_on_the_disk(tmp_path):
    def wrong(*_):
        raise RuntimeError("Expected all tensors to be on the same device")

    with pytest.raises(RuntimeError, match="same device"):
        write_checkpoint(tmp_path, 10, during=wrong)
    assert last_step(tmp_path) == 0


@pytest.mark.parametrize("damage", [lambda file: file.write_bytes(file.read_bytes()[:99]), lambda file: file.unlink()])
def test_a_damaged_state_is_one_line(damage, tmp_path):
    write_checkpoint(tmp_path, 5)
    damage(tmp_path / "checkpoints/000005/training_state/state.pt")
    with pytest.raises(UserError, match=r"000005 is damaged .*delete that folder") as mistake:
        read_last_state(tmp_path)
    assert "\n" not in str(mistake.value)


@pytest.mark.parametrize(
    "state", [[1, 2], {"weights": 1}, {"step": 4, "best": 0.5}, {"step": 5, "best": "text"}, {"step": None}]
)
def test_a_state_of_another_step_is_one_line(state, tmp_path):
    write_checkpoint(tmp_path, 5)
    torch.save(state, tmp_path / "checkpoints/000005/training_state/state.pt")
    with pytest.raises(UserError, match=r"000005 is damaged .*delete that folder") as mistake:
        read_last_state(tmp_path)
    assert "\n" not in str(mistake.value)
