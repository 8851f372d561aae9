"""TinyVLA beside LeRobot's own policies: the same demonstrations, cameras, instructions, and unseen seeds.

    uv run python -m benchmarks.compare                                  # the default suite
    uv run python -m benchmarks.compare suite=harder minutes=15 jobs=2

Two tables. In the first every policy trains for the same wall time: its speed is measured once, alone on the threads
that it will have, and turned into steps. In the second every policy trains on the same number of samples. Finished
cells are never run again: the same command resumes. Inference is timed at equal replanning rate, a new chunk every
`n_action_steps` actions, in a process that does nothing else.

Writes results/<date>-<suite>.json, .md and .png beside this file. The last line is one JSON object.
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

SUITES = {
    "default": ["default"],
    "harder": ["pick-place-v3", "push-v3", "reach-v3", "door-open-v3", "window-open-v3", "peg-unplug-side-v3"],
}
TITLES = {
    "policy": "policy",
    "success": "success",
    "ci95": "95% interval",
    "worst": "worst task",
    "parameters_m": "parameters (M)",
    "samples": "samples seen",
    "samples_per_s": "training samples/s",
    "chunk_ms": "ms per chunk",
    "action_ms": "ms per action",
    "peak_memory_mb": "peak memory (MB)",
    "checkpoint_mb": "checkpoint (MB)",
}


def make_row(policy: str, result: dict[str, Any], steps: int, speed: dict[str, Any]) -> dict[str, Any]:
    """Row of a table: training and evaluation of a finished cell."""
    worst = min(result["tasks"].items(), key=lambda item: item[1]["success_rate"])
    return {
        "policy": policy,
        "success_rate": result["success_rate"],
        "success": f"{result['successes']}/{result['episodes']} ({100 * result['success_rate']:.1f}%)",
        "interval": result["ci95"],
        "ci95": f"{100 * result['ci95'][0]:.1f}–{100 * result['ci95'][1]:.1f}%",
        "worst": f"{worst[0]} {worst[1]['successes']}/{worst[1]['episodes']}",
        "tasks": {
            task: {key: figures[key] for key in ("successes", "episodes", "ci95")}
            for task, figures in result["tasks"].items()
        },
        "samples": steps * speed["batch_size"],
        "steps": steps,
        "samples_per_s": speed["samples_per_s"],
    }


def by_task(rows: list[dict[str, Any]]) -> str:
    """Successes of every policy in every task, with Wilson's interval."""
    tasks = list(rows[0]["tasks"])
    titles = {"policy": "policy"} | {task: task for task in tasks}
    return markdown([{"policy": r["policy"]} | {t: success(r["tasks"][t]) for t in tasks} for r in rows], titles)


def plot(tables: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Draw success with intervals, and success against milliseconds per action, for every budget."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import StrMethodFormatter

    figure, (bars, speed) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    width = 0.8 / len(tables)
    for i, (title, rows) in enumerate(tables.items()):
        rate = np.array([row["success_rate"] for row in rows])
        error = np.abs(np.array([row["interval"] for row in rows]).T - rate)
        places = np.arange(len(rows)) + (i - (len(tables) - 1) / 2) * width
        bars.bar(places, rate, width * 0.9, yerr=error, capsize=3, label=title)
        speed.errorbar([row["action_ms"] for row in rows], rate, yerr=error, fmt="o", capsize=3, label=title)
        for row in rows:
            speed.annotate(
                row["policy"],
                (row["action_ms"], row["success_rate"]),
                xytext=(5, 4),
                textcoords="offset points",
                fontsize=8,
            )
    first = next(iter(tables.values()))
    bars.set_xticks(range(len(first)), [row["policy"] for row in first], rotation=20)
    speed.set(xscale="log", xlabel="ms per action (log)", ylim=(-0.03, 1.05))
    for kind in ("major", "minor"):
        getattr(speed.xaxis, f"set_{kind}_formatter")(StrMethodFormatter("{x:g}"))
    bars.set(ylabel="success, with 95% intervals", ylim=(0, 1.05))
    bars.legend(fontsize=8)
    for axes in (bars, speed):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


@dataclass
class Settings(StudySettings):
    """Settings of the command line."""

    suite: str = setting("default", "tasks; harder has six, pick-place among them", SUITES)
    samples: int | None = setting(
        None, "of the second table; null: as many as the slowest sees in `minutes`; 0: no table"
    )
    demos: int = setting(50, "demonstrations per task")


def main(settings: Settings) -> None:

    study, machine = (
        Study(settings, [f"env.tasks=[{','.join(SUITES[settings.suite])}]", f"episodes={settings.demos}"]),
        Machine(),
    )
    prepare_data(study.common)
    speeds = {policy: study.speed(policy) for policy in settings.policies}
    in_time = {policy: speed["samples_per_s"] * settings.minutes * 60 for policy, speed in speeds.items()}
    samples = round(min(in_time.values())) if settings.samples is None else settings.samples
    budgets = {f"{settings.minutes:g} minutes of training": in_time}
    if samples:
        budgets[f"{samples} samples"] = dict.fromkeys(speeds, samples)
    steps = {
        budget: {policy: max(1, round(count / speeds[policy]["batch_size"])) for policy, count in counts.items()}
        for budget, counts in budgets.items()
    }
    cells = [(budget, policy, study.cell(policy, steps[budget][policy])) for budget in budgets for policy in speeds]
    run_cells([cell for _, _, cell in cells], settings.jobs)
    tables = {
        title: [
            make_row(policy, cell.run(), steps[budget][policy], speeds[policy]) | study.inference(cell)
            for budget, policy, cell in cells
            if budget == title
        ]
        for title in budgets
    }

    stem = f"{date.today()}-{settings.suite}"
    paragraphs = [
        f"{machine.title(study.threads)}; {', '.join(SUITES[settings.suite])}; {settings.demos} demonstrations and "
        f"{settings.episodes} unseen seeds per task"
    ]
    for budget, rows in tables.items():
        paragraphs += [f"### {budget}", markdown(rows, TITLES), by_task(rows)]
    text = "\n\n".join(paragraphs)
    result = machine.describe(study.threads) | {"suite": settings.suite, "setting": study.conditions, "tables": tables}
    keep(stem, result, text)
    plot(tables, RESULTS / f"{stem}.png")
    print(text + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    start(main, Settings, __doc__)
