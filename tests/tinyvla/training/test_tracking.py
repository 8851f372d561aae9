"""Tracking of metrics: metrics.jsonl has each step once, even after a run is killed; wandb works without an account."""

import json
import os
import sys
from pathlib import Path

import pytest
from tiny import write_checkpoint

from tinyvla.errors import UserError
from tinyvla.training import Tracker, read_metrics

OFF = {"wandb": {"mode": "disabled", "project": "p", "entity": None, "name": None}}


def steps(run_dir):
    return [record["step"] for record in read_metrics(run_dir / "metrics.jsonl")]


def test_every_record_is_a_line(tmp_path):
    with Tracker(tmp_path, OFF) as tracker:
        tracker.log(1, {"train/loss": 0.5})
        tracker.log(2, {"train/loss": 0.25, "train/lr": 1e-3})
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"step": 1, "train/loss": 0.5},
        {"step": 2, "train/loss": 0.25, "train/lr": 1e-3},
    ]


def test_other_processes_of_a_distributed_run_write_nothing(tmp_path):
    with Tracker(tmp_path, OFF | {"wandb": {"mode": "offline"}}, enabled=False) as tracker:
        tracker.log(1, {"train/loss": 0.5})
    assert list(tmp_path.iterdir()) == []


def test_records_that_a_resumed_run_makes_again_are_dropped(tmp_path):
    tracker = Tracker(tmp_path, OFF)
    for step in range(1, 9):
        tracker.log(step, {"train/loss": 1 / step})
    write_checkpoint(tmp_path, 5)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 9, "train/lo')  # killed while writing
    assert steps(tmp_path) == list(range(1, 9))
    resumed = Tracker(tmp_path, OFF)
    assert steps(tmp_path) == list(range(1, 9))  # a run that is refused now leaves its file alone
    resumed.log(6, {"train/loss": 1 / 6})
    assert steps(tmp_path) == list(range(1, 7))


def test_a_run_without_a_checkpoint_begins_anew(tmp_path):
    Tracker(tmp_path, OFF).log(1, {"train/loss": 1.0})
    Tracker(tmp_path, OFF).sync()
    assert steps(tmp_path) == []


def test_damaged_lines_and_values_are_left_out(tmp_path):
    file = tmp_path / "metrics.jsonl"
    damaged = [
        "[" * 10**5,
        '{"step": true}',
        '{"step": -1}',
        f'{{"step": 1{"0" * 400}}}',
        "[1]",
        "\x00" * 5,
        '{"step": 2',
    ]
    good = '{"step": 1, "loss": 0.5, "lr": NaN, "none": null, "text": "x", "list": [1], "huge": 1' + "0" * 400 + "}"
    file.write_text("\n".join([*damaged, good]) + "\n")
    (record,) = read_metrics(file)
    assert record.keys() == {"step", "loss", "lr", "none"}


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, lambda file: file.symlink_to("/dev/zero")])
def test_metrics_that_are_no_file_are_one_line(make, tmp_path):
    make(tmp_path / "metrics.jsonl")
    for read in (lambda: read_metrics(tmp_path / "metrics.jsonl"), lambda: Tracker(tmp_path, OFF)):
        with pytest.raises(UserError, match="not a regular file"):
            read()


@pytest.fixture
def wandb_calls(monkeypatch):
    """wandb with every call that talks to its service noted instead."""
    import wandb

    calls = []

    class Run:
        def __init__(self, options):
            self.id, self.summary = options["id"], {}
            calls.append(("init", options))

        def log(self, values, step=None):
            calls.append(("log", values, step))

        def log_artifact(self, artifact):
            calls.append(("artifact", artifact))

        def finish(self, exit_code):
            calls.append(("finish", exit_code))

    monkeypatch.setattr(wandb, "init", lambda **options: Run(options))
    return calls


ONLINE = {"wandb": {"mode": "online", "project": "p", "entity": "e", "name": "n"}, "seed": 3}


def test_a_resumed_run_is_the_same_run_in_wandb(tmp_path, wandb_calls):
    with Tracker(tmp_path, ONLINE) as tracker:
        tracker.log(1, {"train/loss": 0.5})
    with pytest.raises(KeyboardInterrupt), Tracker(tmp_path, ONLINE):
        raise KeyboardInterrupt
    (_, first), logged, finished, (_, second), interrupted = wandb_calls
    assert first["id"] == second["id"]
    assert {key: first[key] for key in ("project", "entity", "name", "mode", "resume")} == ONLINE["wandb"] | {
        "resume": "allow"
    }
    assert first["config"]["seed"] == 3
    assert logged == ("log", {"train/loss": 0.5}, 1)
    assert (finished, interrupted) == (("finish", 0), ("finish", 1))


def test_the_result_goes_to_wandb_with_videos_and_policy(tmp_path, wandb_calls):
    checkpoint = tmp_path / "pretrained_model"
    checkpoint.mkdir()
    (checkpoint / "config.json").write_text("{}")
    video = tmp_path / "reach-v3-000-success.mp4"
    video.write_bytes(b"mp4")
    tracker = Tracker(tmp_path, ONLINE)
    tracker.log_result({"success_rate": 1.0}, [video], checkpoint)
    assert tracker.wandb.summary == {"success_rate": 1.0}
    (_, logged, _), (_, artifact) = wandb_calls[1:]
    assert list(logged) == ["videos/reach-v3-000-success"]
    assert (artifact.type, list(artifact.manifest.entries)) == ("model", ["config.json"])


def test_wandb_without_an_account_is_one_line(tmp_path, monkeypatch):
    import wandb

    def refuse(**_):
        raise wandb.errors.UsageError("No API key configured.\nUse `wandb login` to log in.")

    monkeypatch.setattr(wandb, "init", refuse)
    with pytest.raises(UserError, match=r"No API key configured.*set wandb.mode=offline") as mistake:
        Tracker(tmp_path, ONLINE)
    assert "\n" not in str(mistake.value)


def test_wandb_offline_needs_no_account_and_asks_nothing(tmp_path, monkeypatch):
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(sys, "stdin", None)  # a prompt could not be answered
    with Tracker(tmp_path, {"wandb": OFF["wandb"] | {"mode": "offline"}, "seed": 3}) as tracker:
        tracker.log(1, {"train/loss": 0.5})
    (stored,) = tmp_path.glob("wandb/offline-run-*")
    assert list(stored.glob("*.wandb"))
    assert stored.name.endswith((tmp_path / "wandb_id.txt").read_text())
    assert steps(tmp_path) == [1]
