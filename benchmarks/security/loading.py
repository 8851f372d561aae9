"""Time to load a good checkpoint: with this stack's checks, and by LeRobot's own functions without them.

    python -m benchmarks.security.loading

Both load the policy and its two pipelines, in turns in one process, so that caches and load are the same for both.
"""

import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.machine import ROOT, Machine, keep, markdown, warn_if_busy
from benchmarks.settings import setting, start

from .doors import TRAIN
from .odd_values import TINY

LIMIT_MS = 50


@dataclass
class Settings:
    """Settings of the benchmark."""

    policies: list[str] = setting(["tinyvla", "act", "smolvla"], "policies of preset=cpu, untrained")
    n: int = setting(20, "loads of each kind per policy")


def checked(folder: Path) -> None:
    """Load a checkpoint as every entry point does."""
    from policies.checkpoints import load_checkpoint

    load_checkpoint(folder, "cpu")


def unchecked(folder: Path) -> None:
    """Load a checkpoint as LeRobot's tools do, with the models inside it."""
    from lerobot.configs import PreTrainedConfig
    from lerobot.policies import get_policy_class
    from lerobot.policies.factory import make_pre_post_processors

    from policies.factory import quiet_libraries
    from policies.hub_models import FOLDER, MODELS

    config = PreTrainedConfig.from_pretrained(folder, cli_overrides=["--device=cpu"])
    overrides: dict[str, Any] = {"device_processor": {"device": "cpu"}}
    if hasattr(config, "pretrained_backbone_weights"):
        config.pretrained_backbone_weights = None
    for field, name in MODELS.get(config.type, {}).items():
        setattr(config, field, str(folder / FOLDER / name))
        overrides["tokenizer_processor"] = {"tokenizer_name": getattr(config, field)}
    with quiet_libraries():
        get_policy_class(config.type).from_pretrained(folder, config=config, strict=True)
    make_pre_post_processors(config, pretrained_path=str(folder), preprocessor_overrides=overrides)


def seconds(load: Callable[[Path], None], folder: Path) -> float:
    began = time.perf_counter()
    load(folder)
    return time.perf_counter() - began


def measure(folder: Path, n: int) -> dict[str, Any]:
    """Medians of n loads of each kind, in ms, after two of each that are not counted."""
    times: dict[str, list[float]] = {"checked": [], "unchecked": []}
    for turn in range(n + 2):
        for name, load in (("checked", checked), ("unchecked", unchecked)):
            took = seconds(load, folder)
            if turn >= 2:
                times[name].append(1000 * took)
    medians = {name: round(statistics.median(values), 1) for name, values in times.items()}
    difference = statistics.median(a - b for a, b in zip(times["checked"], times["unchecked"], strict=True))
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return {
        "megabytes": round(size / 1e6, 1),
        **{f"{name}_ms": value for name, value in medians.items()},
        "difference_ms": round(difference, 1),
        "all_ms": {name: [round(value, 1) for value in values] for name, values in times.items()},
    }


def prepare(folder: Path, policies: list[str]) -> dict[str, Path]:
    """Checkpoints by policy, each trained for one step on a small dataset."""
    train = [sys.executable, str(ROOT / "train.py")]
    subprocess.run([*train, *TINY], cwd=folder, check=True, capture_output=True)
    shutil.copytree(next(path for path in (folder / "data").iterdir() if (path / "meta").is_dir()), folder / "dataset")
    for name in policies:
        arguments = shlex.split(f"{TRAIN} preset=cpu policy={name} trainer.steps=1 run_dir=outputs/{name}")[1:]
        subprocess.run([*train, *arguments], cwd=folder, check=True, capture_output=True)
    return {name: folder / "outputs" / name / "checkpoints/last/pretrained_model" for name in policies}


def main(settings: Settings) -> None:
    load = warn_if_busy("times are too long, for both ways alike")
    machine = Machine()
    with tempfile.TemporaryDirectory() as name:
        rows = [
            {"policy": policy} | measure(folder, settings.n)
            for policy, folder in prepare(Path(name), settings.policies).items()
        ]
    worst = max(row["difference_ms"] for row in rows)
    result = {
        "machine": machine.summary,
        "versions": machine.versions,
        "command": f"python -m benchmarks.security.loading n={settings.n}",
        "load_before": load,
        "n": settings.n,
        "limit_ms": LIMIT_MS,
        "worst_difference_ms": worst,
        "rows": rows,
    }
    titles = {
        "policy": "policy",
        "megabytes": "MB",
        "checked_ms": "with checks, ms",
        "unchecked_ms": "LeRobot's functions, ms",
        "difference_ms": "difference, ms",
    }
    text = (
        "# Loading a good checkpoint\n\n"
        f"`{result['command']}`, {machine.summary}, load {load}. Medians of {settings.n} loads of each kind, in turns "
        "in one process; the difference is the median over the turns. At most "
        f"{LIMIT_MS} ms more are accepted; the largest is {worst} ms.\n\n"
    )
    keep("loading", result, text + markdown(rows, titles))
    print(text + markdown(rows, titles))


if __name__ == "__main__":
    start(main, Settings, __doc__)
