"""Success against demonstrations per task, TinyVLA beside LeRobot's own policies on the same unseen seeds.

    uv run python -m benchmarks.data_efficiency
    uv run python -m benchmarks.data_efficiency demos=[5,50] policies=[tinyvla,act] minutes=5 jobs=2

Every policy trains for the same wall time (turned into steps by its speed, as in compare.py) whatever the number of
demonstrations; a smaller number takes the first of a larger one. Finished cells are never run again: the same command
resumes.

Writes results/<date>-data-efficiency.json, .md and .png beside this file. The last line is one JSON object.
"""

import json
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import Study, StudySettings, prepare_data, run_cells
from benchmarks.machine import RESULTS, Machine, keep, markdown, success
from benchmarks.settings import setting, start

Curve = dict[int, dict[str, Any]]  # eval.json by number of demonstrations


def table(curves: dict[str, Curve]) -> str:
    """Markdown with a row per policy and a column per number of demonstrations."""
    counts = list(next(iter(curves.values())))
    rows = [{"policy": policy} | {str(n): success(curve[n]) for n in counts} for policy, curve in curves.items()]
    return markdown(rows, {"policy": "policy"} | {str(n): f"{n} demonstrations" for n in counts})


def plot(curves: dict[str, Curve], path: Path) -> None:
    """Draw success with its 95% interval against demonstrations per task."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7.5, 4.2), layout="constrained")
    for i, (policy, curve) in enumerate(curves.items()):
        rate = np.array([result["success_rate"] for result in curve.values()])
        error = np.abs(np.array([result["ci95"] for result in curve.values()]).T - rate)
        places = np.arange(len(curve)) + 0.04 * (i - (len(curves) - 1) / 2)  # so that no interval hides another
        axes.errorbar(places, rate, yerr=error, marker="o", capsize=3, label=policy)
    axes.set_xticks(range(len(curve)), [str(n) for n in curve])
    axes.set(xlabel="demonstrations per task", ylabel="success, with 95% intervals", ylim=(-0.03, 1.05))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", fontsize=8)  # over no line, wherever they run
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


@dataclass
class Settings(StudySettings):
    """Settings of the command line."""

    demos: list[int] = setting([5, 10, 25, 50], "demonstrations per task")
    tasks: list[str] = setting(["default"], "tasks and suites")


def main(settings: Settings) -> None:

    machine = Machine()
    study = Study(settings, [f"env.tasks=[{','.join(settings.tasks)}]"])
    counts = sorted(settings.demos, reverse=True)  # the largest dataset contains the smaller ones
    for count in counts:
        prepare_data([*study.common, f"episodes={count}"])
    speeds = {policy: study.speed(policy, f"episodes={counts[0]}") for policy in settings.policies}
    steps = {
        policy: round(speed["samples_per_s"] * settings.minutes * 60 / speed["batch_size"])
        for policy, speed in speeds.items()
    }
    cells = {
        (policy, count): study.cell(policy, steps[policy], f"episodes={count}") for count in counts for policy in speeds
    }
    run_cells(list(cells.values()), settings.jobs)
    curves = {policy: {count: cells[policy, count].run() for count in sorted(counts)} for policy in speeds}

    stem = f"{date.today()}-data-efficiency"
    title = f"{machine.title(study.threads)}; {', '.join(settings.tasks)}; {settings.minutes:g} minutes of training; "
    text = f"{title}{settings.episodes} unseen seeds per task\n\n{table(curves)}"
    conditions = study.conditions | {"tasks": settings.tasks}
    keep(stem, machine.describe(study.threads) | {"setting": conditions, "curves": curves}, text)
    plot(curves, RESULTS / f"{stem}.png")
    print(text + "\n")
    figures = {
        policy: {n: [result["successes"], result["episodes"]] for n, result in curve.items()}
        for policy, curve in curves.items()
    }
    print(json.dumps(machine.describe(study.threads) | {"setting": conditions, "successes": figures}))


if __name__ == "__main__":
    start(main, Settings, __doc__)
