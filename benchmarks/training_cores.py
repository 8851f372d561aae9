"""Training speed of one process with a thread per core beside one process per core, alone and beside a busy program.

    uv run python -m benchmarks.training_cores
    uv run python -m benchmarks.training_cores 'presets=[mt50]' rounds=3

Every preset trains on the same demonstrations and batch, in turn under every condition, so that what else the machine
does falls on all of them. The busy program counts without a pause. The last line is one JSON object.

Writes results/training_cores.json and .md.
"""

import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import harmonic_mean, median
from typing import Any

from benchmarks.machine import ROOT, Machine, keep, markdown, warn_if_busy
from benchmarks.settings import setting, start
from tinyvla.training import read_metrics

TASKS = "[button-press-topdown-v3,drawer-open-v3]"
LOG_EVERY, WARM_UP = 10, 3  # steps per record of the speed; records that are not counted
WAYS = {"threads": "a thread per core", "processes": "a process per core"}
SETTINGS = {"threads": ["trainer.processes=1"], "processes": ["trainer.processes=auto"]}
TITLES = {
    "preset": "preset",
    "way": "way",
    "quiet": "samples/s, alone",
    "busy": "samples/s, beside a busy program",
    "kept": "kept beside it",
    "gain": "times the threads' speed, alone",
    "gain_busy": "beside it",
}


@dataclass
class Settings:
    """Settings of the command line."""

    presets: list[str] = setting(["cpu", "mt50"], "presets of train.py")
    rounds: int = setting(3, "trainings under every condition")
    steps: int = setting(150, "steps of a training")
    episodes: int = setting(8, "demonstrations per task")
    overrides: list[str] = setting([], "further settings of train.py")


@contextlib.contextmanager
def busy_program(is_running: bool) -> Iterator[None]:
    """A program that needs a core all the time."""
    if not is_running:
        yield
        return
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as program:
        try:
            yield
        finally:
            program.kill()


def measure(settings: Settings, preset: str, way: str, data: Path) -> float:
    """Samples per second of one training after its first records."""
    with tempfile.TemporaryDirectory() as folder:
        run = [f"run_dir={folder}/run", f"data_dir={data}", f"preset={preset}", f"episodes={settings.episodes}"]
        run += [f"env.tasks={TASKS}", f"trainer.steps={settings.steps}", f"trainer.log_every={LOG_EVERY}"]
        quiet = ["trainer.validate_every=0", "trainer.save_every=0", "eval.episodes=0", "logger=none"]
        command = [sys.executable, "train.py", *run, *quiet, *SETTINGS[way], *settings.overrides]
        if subprocess.run(command, cwd=ROOT, stdout=sys.stderr).returncode:
            raise SystemExit(f"error: {' '.join(command)} failed; the lines above say why")
        records = read_metrics(Path(folder) / "run/metrics.jsonl")
    speeds = [record["train/samples_per_s"] for record in records if "train/samples_per_s" in record]
    return harmonic_mean(speeds[WARM_UP:])


def row(preset: str, way: str, speeds: dict[tuple[str, bool], list[float]]) -> dict[str, Any]:
    """Row of the table: medians over the rounds."""
    quiet, busy = (median(speeds[way, is_busy]) for is_busy in (False, True))
    figures = {"preset": preset, "way": WAYS[way], "quiet": round(quiet), "busy": round(busy)}
    gains = {
        name: f"{median(speeds[way, is_busy]) / median(speeds['threads', is_busy]):.2f}"
        for name, is_busy in (("gain", False), ("gain_busy", True))
    }
    ranges = {f"{name}_range": [round(min(v)), round(max(v))] for name, v in _by_name(way, speeds).items()}
    return figures | {"kept": f"{busy / quiet:.0%}"} | gains | ranges


def _by_name(way: str, speeds: dict[tuple[str, bool], list[float]]) -> dict[str, list[float]]:
    return {"quiet": speeds[way, False], "busy": speeds[way, True]}


def main(settings: Settings) -> None:
    machine, load = Machine(), warn_if_busy("the speeds are too low")
    rows = []
    with tempfile.TemporaryDirectory() as data:
        for preset in settings.presets:
            speeds: dict[tuple[str, bool], list[float]] = {(way, busy): [] for way in WAYS for busy in (False, True)}
            for _ in range(settings.rounds):
                for (way, is_busy), values in speeds.items():
                    with busy_program(is_busy):
                        values.append(measure(settings, preset, way, Path(data)))
                    print(f"{preset}, {WAYS[way]}, busy {is_busy}: {values[-1]:.0f} samples/s", file=sys.stderr)
            rows += [row(preset, way, speeds) for way in WAYS]
    title = f"{machine.summary}; {settings.rounds} trainings of {settings.steps} steps each, in turn; medians"
    result = machine.describe(machine.cores) | {"load_before": load, "steps": settings.steps, "rows": rows}
    keep("training_cores", result, f"{title}\n\n{markdown(rows, TITLES)}")
    print(f"{title}\n\n{markdown(rows, TITLES)}\n")
    print(json.dumps(rows))


if __name__ == "__main__":
    start(main, Settings, __doc__)
