"""Sweeps on a Ray cluster: every job is a task, and its output and errors are returned."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tinyvla.training import read_metrics

ROOT = Path(__file__).parents[1]
SMALL = [
    *("preset=cpu", "backbone.image_size=32", "policy.chunk_size=8", "policy.n_action_steps=4", "logger=none"),
    *("decoder.network.widths=[16,32]", "decoder.network.step_embedding=16", "trainer.batch_size=4"),
    *("trainer.bf16=false", "trainer.num_threads=1", "trainer.validate_every=0", "trainer.log_every=1"),
    *("eval.episodes=0", "launcher=ray", "launcher.job_cpus=1"),
]


def start(*arguments):
    return subprocess.Popen(
        [sys.executable, "train.py", "-m", *SMALL, *arguments],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_a_sweep_runs_its_jobs_as_tasks(dataset_root, tmp_path):
    """A job with a mistake is reported on one line; the other jobs run."""
    sweep = ["seed=0,1", "decoder.scheduler=DDIMScheduler,DDIM", "trainer.steps=3", f"dataset.root={dataset_root}"]
    process = start(*sweep, f"run_dir={tmp_path}")
    out, err = process.communicate(timeout=400)
    assert process.returncode == 2, err[-2000:]
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 2
    assert all("did you mean DDIMScheduler" in line for line in errors)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "0",
        "2",
    ]  # seeds 0 and 1 with the scheduler that exists
    for name in ("0", "2"):
        assert len(read_metrics(tmp_path / name / "metrics.jsonl")) == 3
        assert f"{tmp_path}/{name}/checkpoints/last" in out


@pytest.mark.slow
def test_ctrl_c_has_the_runs_of_a_sweep_save_themselves(dataset_root, tmp_path):
    process = start("seed=0,1", "trainer.steps=100000", f"dataset.root={dataset_root}", f"run_dir={tmp_path}")
    files = [tmp_path / name / "metrics.jsonl" for name in ("0", "1")]
    while process.poll() is None and not all(file.exists() and len(read_metrics(file)) > 5 for file in files):
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=400)
    assert process.returncode == 130
    for name in ("0", "1"):
        assert (tmp_path / name / "checkpoints/last/pretrained_model/model.safetensors").is_file()
