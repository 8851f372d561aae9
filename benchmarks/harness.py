"""What the comparing benchmarks share: cells, each a policy trained and evaluated in one setting, never run twice.

A cell is a run folder of train.py. An unfinished one is resumed, a finished one is read. Every figure of a table is
read from such folders or measured here: none is typed.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Cell:
    """One policy trained with some settings of train.py, in a folder of its own."""

    folder: Path
    settings: tuple[str, ...]

    @property
    def done(self) -> bool:
        return (self.folder / "eval.json").is_file()

    def run(self) -> dict[str, Any]:
        """Train and evaluate unless that has been done; returns eval.json."""
        if not self.done:
            started = (self.folder / "config.yaml").is_file()
            rest = ["resume=true"] if started else list(self.settings)
            print(f"{self.folder}: {'going on' if started else 'training'}", file=sys.stderr, flush=True)
            subprocess.run([sys.executable, "train.py", f"run_dir={self.folder}", *rest], cwd=ROOT, check=True)
        return json.loads((self.folder / "eval.json").read_text())


def training_speed(policy: str, settings: Sequence[str], steps: int) -> dict[str, Any]:
    """Samples a second that train.py's own loop takes in, once warm, and what it trains: measured in this process.

    Training wall time is turned into steps by this figure, so that a schedule knows its length beforehand and other
    load on the machine during the long runs takes nothing from anyone.
    """
    from configs.composing import as_dict, load_config
    from envs import resolve_tasks
    from envs.demos import ensure_dataset
    from policies.training import Tracker, make_accelerator, read_metrics, train

    every = max(1, steps // 10)
    quiet = ["logger=none", "trainer.validate_every=0", "trainer.save_every=0", f"trainer.log_every={every}"]
    cfg = load_config("train", [f"policy={policy}", *settings, *quiet, f"trainer.steps={steps}"])
    env_cfg = as_dict(cfg.env)
    data_dir = ROOT / cfg.data_dir
    dataset = ensure_dataset(env_cfg, resolve_tasks(env_cfg), cfg.episodes, cfg.seed, data_dir, cfg.workers)
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


def in_own_process(script: str, *arguments: str) -> dict[str, Any]:
    """The JSON object on the last line that a script prints: measured in a fresh process."""
    command = [sys.executable, script, *arguments]
    result = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(result.stdout.splitlines()[-1])
