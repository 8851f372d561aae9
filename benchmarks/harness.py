"""Cells of the comparing benchmarks: policies trained and evaluated in one setting each, none run twice.

A cell is a run folder of train.py; an unfinished one is resumed. Figures of finished cells and measurements are kept in
results/cells, in a file per machine, so that a study continues even where its run folders are gone. Every figure of a
table comes from there.
"""

import hashlib
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.machine import RESULTS, ROOT, Machine, peak_memory_mb
from benchmarks.own_process import in_own_process
from benchmarks.result_files import write_result
from benchmarks.settings import setting

POLICIES = ["tinyvla", "act", "diffusion", "vqbet", "smolvla", "multi_task_dit"]
CALIBRATION_STEPS = 30
FIGURES = ("successes", "episodes", "success_rate", "ci95")


class Ledger:
    """Figures by name, kept in the file of this machine."""

    def __init__(self) -> None:
        machine = Machine().summary
        self._file = RESULTS / "cells" / f"{hashlib.sha256(machine.encode()).hexdigest()[:8]}.json"
        self._lock = threading.Lock()
        empty: dict[str, Any] = {"machine": machine, "figures": {}}
        self._contents = json.loads(self._file.read_text()) if self._file.exists() else empty

    def get(self, name: str) -> dict[str, Any] | None:
        return self._contents["figures"].get(name)

    def add(self, name: str, figures: dict[str, Any]) -> dict[str, Any]:
        with self._lock:
            self._contents["figures"][name] = figures
            write_result(self._file, self._contents)
        return figures


@dataclass(frozen=True)
class Cell:
    """One policy trained with overrides of train.py, in its own folder."""

    folder: Path
    overrides: tuple[str, ...]
    ledger: Ledger

    def run(self) -> dict[str, Any]:
        """Train and evaluate unless that has been done; returns the figures of eval.json, overall and per task."""
        if figures := self.ledger.get(self.folder.name):
            return figures
        if not (self.folder / "eval.json").is_file():
            self._train()
        result = json.loads((self.folder / "eval.json").read_text())
        tasks = {task: {key: figures[key] for key in FIGURES} for task, figures in result["tasks"].items()}
        figures = {key: result[key] for key in FIGURES} | {"tasks": tasks, "settings": self.overrides}
        return self.ledger.add(self.folder.name, figures)

    def _train(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        started = (self.folder / "config.yaml").is_file()
        rest = ["resume=true"] if started else list(self.overrides)
        log = self.folder.with_name(f"{self.folder.name}.log")
        print(f"{'resuming' if started else 'training'} {self.folder}, see {log}", file=sys.stderr, flush=True)
        command = [sys.executable, "train.py", f"run_dir={self.folder}", *rest]
        with log.open("a") as output:
            if subprocess.run(command, cwd=ROOT, stdout=output, stderr=output).returncode:
                raise SystemExit(f"error: {' '.join(command)} failed; the end of {log} says why")


def run_cells(cells: Sequence[Cell], jobs: int) -> None:
    """Run the unfinished cells, `jobs` at a time; Ctrl-C stops all of them, and the same command resumes them."""
    with ThreadPoolExecutor(jobs) as pool:
        running = [pool.submit(cell.run) for cell in cells]
        try:
            for cell in running:
                cell.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


@dataclass
class StudySettings:
    """Settings that the comparing benchmarks share."""

    policies: list[str] = setting(POLICIES, "choices of policy of train.py")
    minutes: float = setting(10, "training time per policy")
    episodes: int = setting(20, "evaluation episodes per task")
    jobs: int = setting(1, "trainings side by side, which share the cores")
    seed: int = setting(0, "seed of data, training and evaluation")
    overrides: list[str] = setting([], "settings of train.py for every policy, such as [trainer.batch_size=32]")
    work: Path = setting(Path("outputs/cells"), "folder of the runs")


class Study:
    """Cells and measurements of a comparing benchmark, in a folder that all of them share.

    A cell or figure is identified by the settings that it depends on.
    """

    def __init__(self, settings: StudySettings, common: Sequence[str]):
        self.folder, self.threads = ROOT / settings.work, max(1, Machine().cores // settings.jobs)
        shares = [f"trainer.num_threads={self.threads}", f"eval.workers={self.threads}"]
        self.common = [f"seed={settings.seed}", *shares, *common, *settings.overrides]
        self.episodes = settings.episodes
        self.conditions = {"common": self.common, "minutes": settings.minutes, "episodes": settings.episodes}
        self._ledger = Ledger()

    def speed(self, policy: str, *overrides: str) -> dict[str, Any]:
        """Training speed of a policy with these settings of train.py, measured once."""
        chosen = [*self.common, *overrides]
        name = " ".join(["speed", policy, *chosen])
        return self._measure(name, "benchmarks.harness:training_speed", policy, chosen)

    def inference(self, cell: Cell) -> dict[str, Any]:
        """Size, speed and memory of a cell's policy, measured once."""
        checkpoint = str(cell.folder.relative_to(ROOT))
        return self._measure(f"inference {checkpoint}", "benchmarks.harness:inference", checkpoint)

    def _measure(self, name: str, function: str, *arguments: Any) -> dict[str, Any]:
        """Result of a function in its own process, kept under `name`."""
        if figures := self._ledger.get(name):
            return figures
        print(f"measuring {name}", file=sys.stderr, flush=True)
        return self._ledger.add(name, in_own_process(function, *arguments))

    def cell(self, policy: str, steps: int, *overrides: str) -> Cell:
        """The cell that trains a policy for `steps`."""
        run = ["logger=none", "trainer.validate_every=0", "eval.wrong_instructions=0", "eval.videos=0"]
        run += [f"eval.episodes={self.episodes}", f"trainer.steps={steps}"]
        chosen = (f"policy={policy}", *self.common, *overrides, *run)
        name = f"{policy}-{hashlib.sha256(' '.join(chosen).encode()).hexdigest()[:8]}"
        return Cell(self.folder / name, chosen, self._ledger)


def training_speed(policy: str, overrides: Sequence[str], steps: int = CALIBRATION_STEPS) -> dict[str, Any]:
    """Samples per second of train.py's loop once warm, measured in this process.

    This figure turns training wall time into steps, so that a schedule knows its length in advance and other load on
    the machine during the long runs does not favour any policy.
    """
    from configs.composing import as_dict, load_config
    from policies.training import decode_run, train
    from tinyvla.training import Tracker, make_accelerator, read_metrics

    every = max(1, steps // 10)
    quiet = ["logger=none", "trainer.validate_every=0", "trainer.save_every=0", f"trainer.log_every={every}"]
    cfg = load_config("train", [f"policy={policy}", *overrides, *quiet, f"trainer.steps={steps}"])
    dataset = prepare_data([f"policy={policy}", *overrides])
    accelerator = make_accelerator(cfg.device, cfg.trainer.bf16)
    with tempfile.TemporaryDirectory() as folder:
        cfg.run_dir = folder
        with Tracker(Path(folder), as_dict(cfg)) as tracker:
            train(decode_run(as_dict(cfg)), dataset, accelerator, tracker)
        records = [record for record in read_metrics(Path(folder) / "metrics.jsonl") if "train/loss" in record]
    warm = records[len(records) // 3 :]
    return {
        "samples_per_s": round(statistics.median(record["train/samples_per_s"] for record in warm), 2),
        "data_share": round(statistics.median(record["train/data_share"] for record in warm), 4),
        "batch_size": cfg.trainer.batch_size,
        "steps_by_default": load_config("train", [f"policy={policy}", *overrides]).trainer.steps,
    }


def prepare_data(overrides: Sequence[str]) -> Path:
    """Folder of the dataset that train.py would collect with these settings, its frames decoded in advance."""
    from configs.composing import as_dict, load_config
    from envs import decode_env, resolve_tasks
    from envs.demos import ensure_dataset
    from policies.data import cache_frames, open_dataset
    from tinyvla.machine import count_cores

    cfg = load_config("train", list(overrides))
    env_cfg = decode_env(as_dict(cfg.env))
    tasks = resolve_tasks(env_cfg)
    dataset = ensure_dataset(env_cfg, tasks, cfg.episodes, cfg.seed, ROOT / cfg.data_dir, cfg.workers)
    cache_frames(open_dataset(dataset), count_cores())
    return dataset


def inference(checkpoint: str, chunks: int = 30) -> dict[str, Any]:
    """Size of a trained policy, and time and memory of running it at its replanning rate, in this process."""
    import numpy as np

    from benchmarks.samplers import random_observation
    from policies import find_checkpoint, load_policy

    folder = find_checkpoint(Path(checkpoint))
    runner = load_policy(folder)
    config = runner.policy.config
    observation = random_observation(runner)
    steps = getattr(config, "n_action_steps", None) or config.action_chunk_size  # the latter is VQ-BeT's
    times = []
    for _ in range((chunks + 3) * steps):
        start = time.perf_counter()
        runner.act(observation)
        times.append((time.perf_counter() - start) * 1e3)
    # Every chunk's first action computes it, the others take it from the queue.
    rounds = np.array(times).reshape(-1, steps)[3:]
    return {
        "parameters_m": round(sum(p.numel() for p in runner.policy.parameters()) / 1e6, 2),
        "n_action_steps": steps,
        "chunk_ms": round(float(np.median(rounds.max(axis=1))), 1),
        "action_ms": round(float(np.median(rounds.mean(axis=1))), 2),
        "peak_memory_mb": round(peak_memory_mb("cpu")),
        "checkpoint_mb": round((folder / "model.safetensors").stat().st_size / 1e6, 1),
    }
