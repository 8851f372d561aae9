"""Description of the machine, Markdown tables, and files in benchmarks/results; shared by all benchmarks."""

import importlib.metadata
import json
import os
import platform
import resource
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.result_files import RESULTS as RESULTS
from benchmarks.result_files import ROOT as ROOT
from benchmarks.result_files import write_result
from benchmarks.settings import describe_run
from tinyvla.files import write_whole
from tinyvla.machine import count_cores

PACKAGES = ("lerobot", "torch", "transformers", "diffusers", "torchao", "onnxruntime", "mujoco", "metaworld")
BUSY = 0.5  # load average from which other programs distort timings


class Machine:
    """This machine, as a table of figures names it."""

    def __init__(self) -> None:
        self.cores = count_cores()
        self.name = f"{platform.system()} {platform.machine()}, {processor()}"
        self.versions = versions(*PACKAGES)

    @property
    def summary(self) -> str:
        """Name and cores."""
        return f"{self.name}, {self.cores} cores"

    def describe(self, threads: int) -> dict[str, Any]:
        """Machine, threads, package versions and load that the figures of a benchmark belong to."""
        setting = {"machine": self.name, "cores": self.cores, "threads": threads, "versions": self.versions}
        return setting | {"load_before": round(os.getloadavg()[0], 2)}

    def title(self, threads: int) -> str:
        """The same as the line above a table."""
        packages = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        return f"{self.name}; threads: {threads}; {packages}"


def versions(*packages: str) -> dict[str, str]:
    """Installed versions by package."""
    return {package: importlib.metadata.version(package) for package in packages}


def warn_if_busy(effect: str) -> float:
    """Load average of the last minute, rounded; on a busy machine a warning on stderr, such as "times are too long"."""
    load = round(os.getloadavg()[0], 2)
    if load > BUSY:
        print(f"other programs keep {load:.1f} cores busy: {effect}", file=sys.stderr)
    return load


def processor() -> str:
    """Name of the CPU, where the system reports one."""
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown processor"


def peak_memory_mb(device: str) -> float:
    """Peak memory of this process, or on the GPU what PyTorch allocated there, in 10^6 bytes."""
    if device != "cpu":
        import torch

        return torch.cuda.max_memory_allocated() / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def markdown(rows: Sequence[Mapping[str, Any]], titles: Mapping[str, str]) -> str:
    """Rows as a Markdown table with a column per title, in that order."""
    lines = [list(titles.values()), ["---"] * len(titles), *([str(row.get(key, "")) for key in titles] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def success(figures: Mapping[str, Any]) -> str:
    """Successes and episodes of an evaluation with the interval in percent, for a table."""
    low, high = figures["ci95"]
    return f"{figures['successes']}/{figures['episodes']} ({100 * low:.0f}–{100 * high:.0f}%)"


def read_kept(name: str, conditions: Mapping[str, Any]) -> dict[str, Any]:
    """Earlier result of the name if it belongs to the same conditions (its `asked`), else an empty one."""
    file = RESULTS / f"{name}.json"
    earlier = json.loads(file.read_text()) if file.exists() else {}
    return earlier if earlier.get("asked") == conditions else {}


def once[T](file: Path, measure: Callable[[], T]) -> T:
    """Result of `measure` as JSON, from its file if an earlier call has written it."""
    if not file.exists():
        write_whole(file, json.dumps(measure()))
    return json.loads(file.read_text())


def keep(name: str, result: Mapping[str, Any], text: str) -> None:
    """Write `<name>.json` and `<name>.md` to benchmarks/results.

    `run` in the result is the command that wrote it: its settings, seeds and numbers of trials among them, machine and
    versions. A result that several commands have added to has the last one.
    """
    machine = Machine()
    run = describe_run() | {"machine": machine.summary, "versions": machine.versions}
    write_result(RESULTS / f"{name}.json", {**result, "run": run}, text + "\n")
