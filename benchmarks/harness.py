"""What the comparing benchmarks share: cells, each a policy trained and evaluated in one setting, never run twice.

A cell is a run folder of train.py; an unfinished one is resumed. What finished cells and measurements gave is kept in
results/cells, a file a machine, so that a study goes on even where its folders of runs are gone. Every figure of a
table comes from there: none is typed.
"""

import argparse
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

from benchmarks.machine import RESULTS, Machine
from tinyvla.files import write_whole

ROOT = Path(__file__).resolve().parents[1]
POLICIES = ["tinyvla", "act", "diffusion", "vqbet", "smolvla", "multi_task_dit"]
CALIBRATION_STEPS = 30
FIGURES = ("successes", "episodes", "success_rate", "ci95")


class Ledger:
    """Figures by name, kept in a file of this machine's own."""

    def __init__(self) -> None:
        machine = Machine().summary
        self._file = RESULTS / "cells" / f"{hashlib.sha256(machine.encode()).hexdigest()[:8]}.json"
        self._lock = threading.Lock()
        kept = json.loads(self._file.read_text()) if self._file.exists() else {"machine": machine, "figures": {}}
        self._kept: dict[str, Any] = kept

    def get(self, name: str) -> dict[str, Any] | None:
        return self._kept["figures"].get(name)

    def add(self, name: str, figures: dict[str, Any]) -> dict[str, Any]:
        with self._lock:
            self._kept["figures"][name] = figures
            write_whole(self._file, json.dumps(self._kept, indent=1))
        return figures


@dataclass(frozen=True)
class Cell:
    """One policy trained with some settings of train.py, in a folder of its own."""

    folder: Path
    settings: tuple[str, ...]
    ledger: Ledger

    def run(self) -> dict[str, Any]:
        """Train and evaluate unless that has been done; returns what eval.json says of all episodes and each task."""
        if kept := self.ledger.get(self.folder.name):
            return kept
        if not (self.folder / "eval.json").is_file():
            self._train()
        result = json.loads((self.folder / "eval.json").read_text())
        tasks = {task: {key: figures[key] for key in FIGURES} for task, figures in result["tasks"].items()}
        figures = {key: result[key] for key in FIGURES} | {"tasks": tasks, "settings": self.settings}
        return self.ledger.add(self.folder.name, figures)

    def _train(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        started = (self.folder / "config.yaml").is_file()
        rest = ["resume=true"] if started else list(self.settings)
        log = self.folder.with_name(f"{self.folder.name}.log")
        print(f"{'going on with' if started else 'training'} {self.folder}, see {log}", file=sys.stderr, flush=True)
        command = [sys.executable, "train.py", f"run_dir={self.folder}", *rest]
        with log.open("a") as output:
            if subprocess.run(command, cwd=ROOT, stdout=output, stderr=output).returncode:
                raise SystemExit(f"error: {' '.join(command)} failed; the end of {log} says why")


def run_cells(cells: Sequence[Cell], jobs: int) -> None:
    """Run the cells that are not done, `jobs` at a time; Ctrl-C stops them all where the same command goes on."""
    with ThreadPoolExecutor(jobs) as pool:
        running = [pool.submit(cell.run) for cell in cells]
        try:
            for cell in running:
                cell.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


class Study:
    """What the comparing benchmarks have measured so far, kept in one folder that they share, and how they make a cell.

    A cell and a figure are found again by the settings they belong to: others make others.
    """

    def __init__(self, args: argparse.Namespace, common: Sequence[str]):
        self.folder, self.jobs, self.threads = ROOT / args.work, args.jobs, max(1, Machine().cores // args.jobs)
        shares = [f"trainer.num_threads={self.threads}", f"eval.workers={self.threads}"]
        self.common = [f"seed={args.seed}", *shares, *common, *args.set]
        self.minutes, self.episodes = args.minutes, args.episodes
        self.setting = {"common": self.common, "minutes": args.minutes, "episodes": args.episodes}
        self._ledger = Ledger()

    def _measure(self, *arguments: str) -> dict[str, Any]:
        """What this module prints for these arguments, in a process of its own, once."""
        name = " ".join(arguments)
        if kept := self._ledger.get(name):
            return kept
        print(f"measuring {name}", file=sys.stderr, flush=True)
        return self._ledger.add(name, in_own_process("benchmarks.harness", *arguments))

    def speed(self, policy: str, *settings: str) -> dict[str, Any]:
        """Training speed of a policy with these settings, measured once."""
        return self._measure("speed", policy, *self.common, *settings)

    def inference(self, cell: Cell) -> dict[str, Any]:
        """Size, speed and memory of a cell's policy, measured once."""
        return self._measure("inference", str(cell.folder.relative_to(ROOT)))

    def cell(self, policy: str, steps: int, *settings: str) -> Cell:
        """The cell that trains a policy for so many steps."""
        run = ["logger=none", "trainer.validate_every=0", "eval.wrong_instructions=0", "eval.videos=0"]
        run += [f"eval.episodes={self.episodes}", f"trainer.steps={steps}"]
        chosen = (f"policy={policy}", *self.common, *settings, *run)
        name = f"{policy}-{hashlib.sha256(' '.join(chosen).encode()).hexdigest()[:8]}"
        return Cell(self.folder / name, chosen, self._ledger)


def add_arguments(parser: argparse.ArgumentParser, minutes: float) -> None:
    """The arguments that a Study reads."""
    parser.add_argument("--policies", nargs="+", default=POLICIES, help="choices of train.py's policy")
    parser.add_argument("--minutes", type=float, default=minutes, help="of training (default: %(default)s)")
    parser.add_argument("--episodes", type=int, default=20, help="of evaluation a task (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=1, help="trainings side by side, which share the cores")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], help="a further setting of train.py, for every policy")
    parser.add_argument("--work", type=Path, default=Path("outputs/cells"), help="where runs are kept")


def training_speed(policy: str, settings: Sequence[str], steps: int = CALIBRATION_STEPS) -> dict[str, Any]:
    """Samples a second that train.py's own loop takes in, once warm, and what it trains: measured in this process.

    Training wall time is turned into steps by this figure, so that a schedule knows its length beforehand and other
    load on the machine during the long runs takes nothing from anyone.
    """
    from configs.composing import as_dict, load_config
    from policies.training import train
    from tinyvla.training import Tracker, make_accelerator, read_metrics

    every = max(1, steps // 10)
    quiet = ["logger=none", "trainer.validate_every=0", "trainer.save_every=0", f"trainer.log_every={every}"]
    cfg = load_config("train", [f"policy={policy}", *settings, *quiet, f"trainer.steps={steps}"])
    dataset = prepare_data([f"policy={policy}", *settings])
    accelerator = make_accelerator(cfg.device, cfg.trainer.bf16)
    with tempfile.TemporaryDirectory() as folder:
        cfg.run_dir = folder
        with Tracker(Path(folder), as_dict(cfg)) as tracker:
            train(cfg, dataset, accelerator, tracker)
        records = [record for record in read_metrics(Path(folder) / "metrics.jsonl") if "train/loss" in record]
    warm = records[len(records) // 3 :]
    return {
        "samples_per_s": round(statistics.median(record["train/samples_per_s"] for record in warm), 2),
        "data_share": round(statistics.median(record["train/data_share"] for record in warm), 4),
        "batch_size": cfg.trainer.batch_size,
        "steps_by_default": load_config("train", [f"policy={policy}", *settings]).trainer.steps,
    }


def prepare_data(settings: Sequence[str]) -> Path:
    """The folder of the dataset that train.py would collect with these settings, its frames decoded too."""
    from configs.composing import as_dict, load_config
    from envs import decode_env, resolve_tasks
    from envs.demos import ensure_dataset
    from policies.data import cache_frames, open_dataset
    from tinyvla.machine import count_cores

    cfg = load_config("train", list(settings))
    env_cfg = decode_env(as_dict(cfg.env))
    tasks = resolve_tasks(env_cfg)
    dataset = ensure_dataset(env_cfg, tasks, cfg.episodes, cfg.seed, ROOT / cfg.data_dir, cfg.workers)
    cache_frames(open_dataset(dataset), count_cores())
    return dataset


def inference(checkpoint: str, chunks: int = 30) -> dict[str, Any]:
    """Size of a trained policy, and time and memory of running it at its replanning rate, measured in this process."""
    import numpy as np

    from benchmarks.inference import peak_memory_mb
    from benchmarks.samplers import random_observation
    from policies import PolicyRunner, find_checkpoint

    folder = find_checkpoint(Path(checkpoint))
    runner = PolicyRunner.from_checkpoint(folder)
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


def in_own_process(module: str, *arguments: str) -> dict[str, Any]:
    """The JSON object on the last line that a module prints: measured in a fresh process."""
    command = [sys.executable, "-m", module, *arguments]
    result = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(result.stdout.splitlines()[-1])


if __name__ == "__main__":
    mode, subject, *settings = sys.argv[1:]
    print(json.dumps(training_speed(subject, settings) if mode == "speed" else inference(subject)))
