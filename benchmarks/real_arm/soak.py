"""Long runs of an arm: rate, late ticks and memory.

    uv run python -m benchmarks.real_arm.soak minutes=30
    uv run python -m benchmarks.real_arm.soak name=busy "beside=train.py with one thread"

The loop of deploy.py at its rate on the twin over the serial port, with cameras, recording, guard and a policy of
random weights, in episodes of one minute. Per minute, a line lists the rate, late and missed ticks, and the memory of
every process. The last line is one JSON object. Runs are kept by name in results/soak.json and .md.
"""

import json
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.machine import RESULTS, Machine, keep, markdown
from benchmarks.real_arm.rig import RATE, START, Rig, start_rig, waving
from benchmarks.settings import describe_run, setting, start
from policies.data import open_dataset
from robot_io.deployment import Episode

WARM_UP = 2  # minutes before memory is compared, at most a third of all
MB = 1 << 20
PROCESSES = {  # by a text in their command line
    "twin": "robot_io.twin.client",
    "recording": "robot_io.recording.writer",
    "guard": "robot_io.feetech.guard",
}
RUN_TITLES = {
    "name": "run",
    "beside": "other programs",
    "minutes": "minutes",
    "ticks": "ticks",
    "late": "late by over 3.3 ms",
    "missed": "missed",
    "p50_ms": "p50 (ms late)",
    "p99_ms": "p99",
    "worst_ms": "worst",
    "held_ticks": "ticks held",
    "lost": "frames lost",
    "growth_mb": "growth of the loop (MB)",
}
TITLES = {
    "minute": "minute",
    "rate_hz": "rate (Hz)",
    "ticks": "ticks",
    "missed": "missed",
    "unread": "not read",
    "worst_ms": "longest time between ticks (ms)",
    "loop_mb": "loop (MB)",
    "twin_mb": "twin (MB)",
    "recording_mb": "recording (MB)",
    "guard_mb": "guard (MB)",
}


class Minutes:
    """Watcher that records a line per episode."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self.lines: list[dict[str, Any]] = []
        self.ticks = 0

    def begin(self, episode: Episode) -> None:
        self._rig.let_go()
        self._dues: list[float] = []
        self._began: list[float] = []

    def observe(self, tick: Any) -> None:
        self._dues.append(tick.due)
        self._began.append(time.monotonic())

    def end(self, result: Mapping[str, Any]) -> None:
        ticks, seconds = len(self._dues), self._began[-1] - self._began[0]
        self.ticks += ticks
        gaps = [later - earlier for earlier, later in zip(self._began, self._began[1:], strict=False)]
        line = {
            "minute": len(self.lines) + 1,
            "ended": result["ended"],
            "ticks": result["ticks"],
            "unread": result["ticks"] - ticks,
            "missed": round((self._dues[-1] - self._dues[0]) * RATE) + 1 - result["ticks"],
            "rate_hz": round((ticks - 1) / seconds, 3),
            "worst_ms": round(max(gaps) * 1e3, 1),
            **memory(),
        }
        self.lines.append(line)
        print(json.dumps(line), flush=True)

    def report(self) -> dict[str, Any]:
        return {}


def memory() -> dict[str, float]:
    """Resident memory in MB of this process and its children."""
    megabytes = {"loop_mb": _resident(os.getpid())}
    for task in Path("/proc/self/task").iterdir():
        for child in (task / "children").read_text().split():
            line = Path(f"/proc/{child}/cmdline").read_text()
            megabytes |= {f"{name}_mb": _resident(int(child)) for name, word in PROCESSES.items() if word in line}
    return megabytes


def _resident(process: int) -> float:
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / MB, 2)


def soak(minutes: int, seconds: float) -> dict[str, Any]:
    """Run an episode per minute; returns rates, memory growth and counts."""
    with start_rig() as rig, waving(rig) as runner:
        watcher = Minutes(rig)
        rig.hold()
        recording = rig.folder / "recording"
        with rig.recorder(recording, runner) as recorder:
            run = rig.deployment(runner, watcher, recorder)
            report = run.run([Episode("wave", seconds, START, seed=minute) for minute in range(minutes)], rig.folder)
        frames = len(open_dataset(recording))
    lines = watcher.lines
    warm = min(WARM_UP, max(1, minutes // 3)) - 1
    growth = {name: round(lines[-1][name] - lines[warm][name], 2) for name in lines[-1] if name.endswith("_mb")}
    timing = report["timing"]
    missed, unread = (sum(line[name] for line in lines) for name in ("missed", "unread"))
    return {
        "minutes": minutes,
        "ended": report["ended"],
        "timing": timing,
        "rate_hz": {"first": lines[warm]["rate_hz"], "last": lines[-1]["rate_hz"]},
        "growth_mb": growth,
        "held_ticks": report["held_ticks"],
        "accounted": timing["ticks"] == watcher.ticks + unread and timing["missed"] == missed,
        "recorded": {"frames": frames, "lost": report["recording"]["lost"], "seen": watcher.ticks},
        "interventions": {cause: n["interventions"] for cause, n in report["safety"]["causes"].items()},
        "lines": lines,
    }


def summary(run: Mapping[str, Any]) -> dict[str, Any]:
    """Row of the table of runs."""
    timing = run["timing"]
    row = {key: run[key] for key in ("name", "beside", "minutes", "held_ticks")} | timing
    late = f"{timing['late']} ({100 * timing['late'] / timing['ticks']:.2f}%)"
    return row | {"late": late, "lost": run["recorded"]["lost"], "growth_mb": run["growth_mb"]["loop_mb"]}


def text(runs: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown of all runs: a row each, then a row per minute."""
    sections = [markdown([summary(run) for run in runs.values()], RUN_TITLES)]
    for run in runs.values():
        head = f"{run['name']}: {run['machine']}, load before {run['load_before']}"
        sections.append(f"{head}\n\n{markdown(run['lines'], TITLES)}")
    return "\n\n".join(sections)


@dataclass
class Settings:
    """Settings of the command line."""

    name: str = setting("quiet", "of the run, which replaces an earlier one of that name")
    beside: str = setting("none", "other programs on the machine, in words, for the table")
    minutes: int = setting(30, "episodes")
    seconds: float = setting(60.0, "seconds per episode")


def main(settings: Settings) -> None:
    logging.disable(logging.CRITICAL)
    conditions = Machine().describe(1) | describe_run() | {"name": settings.name, "beside": settings.beside}
    run = conditions | soak(settings.minutes, settings.seconds)
    file = RESULTS / "soak.json"
    runs = json.loads(file.read_text())["runs"] if file.exists() else {}
    runs[settings.name] = run
    keep("soak", {"runs": runs}, text(runs))
    print(json.dumps({key: value for key, value in run.items() if key not in ("lines", "versions")}))


if __name__ == "__main__":
    start(main, Settings, __doc__)
