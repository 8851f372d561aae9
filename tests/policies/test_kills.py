"""A save that ends at any file operation, by kill -9 or Ctrl-C: the best policy stays right, and the run goes on."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_checkpoints import WHOLE, content
from tiny import write_checkpoint

from tinyvla.errors import UserError
from tinyvla.files import model_in
from tinyvla.training.checkpoint import CheckpointWriter, last_step, read_last_state, settle

ROOT = Path(__file__).parents[2]
EVENTS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink", "shutil.rmtree"}
SAVES = {5: True, 10: False, 15: True}  # True: the best so far
BEST = {0: None, 5: 5, 10: 5, 15: 15}


def save_all(run_dir):
    """Make all saves that the run has not made yet."""
    settle(run_dir)
    for step, is_best in SAVES.items():
        if step > last_step(run_dir):
            write_checkpoint(run_dir, step, is_best)


def end_at(number, end, run_dir):
    """Make all saves in a child process that ends before its operation of that number; False if it makes fewer."""
    child = os.fork()
    if child == 0:
        left = number

        def watch(event, arguments):
            nonlocal left
            if event in EVENTS and str(run_dir) in str(arguments[0]):
                left -= 1
                if left == 0:
                    end()

        sys.addaudithook(watch)
        try:
            save_all(run_dir)
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1] != 0


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def interrupt():
    raise KeyboardInterrupt


@pytest.mark.parametrize("end", [kill, pytest.param(interrupt, marks=pytest.mark.slow)])
def test_a_save_that_ends_at_any_operation(end, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)  # matters for a power cut only, and takes long
    save_all(tmp_path / "whole")
    expected = content(tmp_path / "whole")
    number, run_dir = 1, tmp_path / "run"
    while end_at(number, end, run_dir):
        step = last_step(run_dir)
        best = model_in(run_dir)
        assert (best and int(best.resolve().parent.name)) == BEST[step], f"operation {number}"
        assert step == 0 or read_last_state(run_dir)["step"] == step
        save_all(run_dir)
        assert content(run_dir) == expected, f"operation {number}"
        shutil.rmtree(run_dir)
        number += 1
    assert number > 40


def test_a_run_of_before_the_record_keeps_the_checkpoint_of_its_link(tmp_path):
    write_checkpoint(tmp_path, 5, is_best=True)
    write_checkpoint(tmp_path, 10)
    for record in tmp_path.glob("checkpoints/*/training_state/best.json"):
        record.unlink()
    assert model_in(tmp_path).resolve().parent.name == "000005"
    settle(tmp_path)
    write_checkpoint(tmp_path, 20)
    assert content(tmp_path) == {"000005": WHOLE, "000020": WHOLE, "last": "000020", "best": "000005"}
    (tmp_path / "checkpoints/best").unlink()
    assert model_in(tmp_path).resolve().parent.name == "000005"
    shutil.rmtree(tmp_path / "checkpoints/000005")
    assert model_in(tmp_path).resolve().parent.name == "000020"


def test_a_damaged_record_is_one_line(tmp_path):
    write_checkpoint(tmp_path, 5, is_best=True)
    record = tmp_path / "checkpoints/000005/training_state/best.json"
    for damage in ("", "[]", '{"step": "../.."}'):
        record.write_text(damage)
        with pytest.raises(UserError) as mistake:
            model_in(tmp_path)
        assert "best.json" in str(mistake.value)
        assert "\n" not in str(mistake.value)


def test_a_disk_that_fills_up_within_the_state_is_one_line(tmp_path):
    write_checkpoint(tmp_path, 5, is_best=True)
    before = content(tmp_path)
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            with CheckpointWriter(tmp_path, 10) as checkpoint:
                checkpoint.add_model(lambda folder: folder.mkdir())
                checkpoint.finish({"weights": torch.zeros(100_000)}, is_best=True)
        except UserError as error:
            os._exit(0 if "could not be written" in str(error) and "\n" not in str(error) else 1)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert content(tmp_path) == before
    assert model_in(tmp_path).resolve().parent.name == "000005"


PROGRAM = """
import json, sys
from pathlib import Path
from benchmarks.security.interrupted_work import Save
from benchmarks.security.kills import measure
print(json.dumps(measure(Save(Path(sys.argv[1])), 20)))
"""


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("strace"), reason="needs strace")
def test_training_killed_at_system_calls_of_its_saves(tmp_path):
    command = [sys.executable, "-c", PROGRAM, tmp_path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["faults"] == []
    assert result["good"] == result["killed"] >= 18
