"""What benchmarks share: what machine this is, Markdown tables, and files in benchmarks/results."""

import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tinyvla.files import write_whole

PACKAGES = ("lerobot", "torch", "transformers", "diffusers", "torchao", "onnxruntime", "mujoco", "metaworld")
RESULTS = Path(__file__).resolve().parent / "results"


class Machine:
    """This machine, as a table of figures must name it."""

    def __init__(self) -> None:
        affinity = getattr(os, "sched_getaffinity", None)
        self.cores = len(affinity(0)) if affinity else os.cpu_count() or 1
        self.name = f"{platform.system()} {platform.machine()}, {processor()}"
        self.versions = {package: importlib.metadata.version(package) for package in PACKAGES}

    @property
    def summary(self) -> str:
        """Name and cores."""
        return f"{self.name}, {self.cores} cores"

    def describe(self, threads: int) -> dict[str, Any]:
        """What the figures of a benchmark on so many threads belong to."""
        setting = {"machine": self.name, "cores": self.cores, "threads": threads, "versions": self.versions}
        return setting | {"load_before": round(os.getloadavg()[0], 2)}

    def title(self, threads: int) -> str:
        """The same as the line above a table."""
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        return f"{self.name}; threads: {threads}; {versions}"


def processor() -> str:
    """The CPU's name, where the system tells."""
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown processor"


def markdown(rows: Sequence[Mapping[str, Any]], titles: Mapping[str, str]) -> str:
    """Rows as a Markdown table; a column a title, in that order."""
    lines = [list(titles.values()), ["---"] * len(titles), *([str(row.get(key, "")) for key in titles] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def keep(name: str, result: Mapping[str, Any], text: str) -> None:
    """Write `<name>.json` and `<name>.md` to benchmarks/results, each whole or not at all."""
    for suffix, content in ((".json", json.dumps(result, indent=1)), (".md", text)):
        write_whole(RESULTS / f"{name}{suffix}", content + "\n")
