"""Meta-World MT50's recipe, each part left out alone, on seven hard tasks at the same number of samples.

    uv run python -m benchmarks.mt50_ablation
    uv run python -m benchmarks.mt50_ablation jobs=2 rows=[recipe,no-wrist]     # two trainings side by side

Every row trains `preset=mt50` with one change; its success is measured on unseen seeds. The execution horizon is
varied in the evaluator, with the weights of the recipe. Finished rows are never run again: the same command resumes.

Writes results/mt50_ablation.json and .md. The last line is one JSON object.
"""

import json
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

from benchmarks.harness import FIGURES, Cell, Study, StudySettings, prepare_data, run_cells
from benchmarks.machine import ROOT, Machine, keep, markdown, success
from benchmarks.settings import setting, start

HARD = [
    "reach-v3", "pick-place-v3", "push-v3", "peg-unplug-side-v3", "door-open-v3", "handle-pull-v3", "stick-pull-v3",
]  # fmt: skip
# What each row changes of the preset.
ROWS = {
    "recipe": [],
    "no-wrist": ["env.cameras=[corner2_table,topview_table]"],
    "no-table-views": ["env.cameras=[corner2,topview,gripperPOV]"],
    "no-waypoints": ["policy.waypoint_weight=0"],
    "nano-backbone": ["backbone=nano"],
    "one-noise-draw": ["decoder.noise_repeats=1"],
    "default-recipe": [
        "env.cameras=[corner2,topview]",
        "policy.waypoint_weight=0",
        "backbone=nano",
        "decoder.noise_repeats=1",
        "policy.n_action_steps=8",
        "trainer.augment.shift=1",
    ],
}
HORIZONS = [2, 8, 16]  # of a chunk of 16; the recipe's is 4


@dataclass
class Settings(StudySettings):
    """Settings of the command line."""

    rows: list[str] = setting(list(ROWS), "rows to run", ROWS)
    horizons: list[int] = setting(HORIZONS, "further execution horizons of the recipe's policy")
    steps: int = setting(2500, "training steps of every row")
    tasks: list[str] = setting(HARD, "tasks and suites")
    demos: int = setting(50, "demonstrations per task")


def evaluate_horizon(cell: Cell, horizon: int, settings: Settings) -> dict[str, Any]:
    """Figures of a finished cell's policy with another execution horizon, measured once."""
    name = f"{cell.folder.name} horizon {horizon} episodes {settings.episodes}"
    if figures := cell.ledger.get(name):
        return figures
    folder = cell.folder.with_name(f"{cell.folder.name}-horizon-{horizon}")
    command = [sys.executable, "evaluate.py", f"checkpoint={cell.folder}", f"run_dir={folder}", "videos=0"]
    command += [f"env.tasks=[{','.join(settings.tasks)}]", f"runner.n_action_steps={horizon}"]
    command += [f"episodes={settings.episodes}", f"seed={settings.seed}"]
    if subprocess.run(command, cwd=ROOT, stdout=sys.stderr).returncode:
        raise SystemExit(f"error: {' '.join(command)} failed; the lines above say why")
    result = json.loads((folder / "eval.json").read_text())
    tasks = {task: {key: figures[key] for key in FIGURES} for task, figures in result["tasks"].items()}
    chosen = (*FIGURES, "ms_per_action", "episode_length")
    return cell.ledger.add(name, {key: result[key] for key in chosen} | {"tasks": tasks})


def table(rows: dict[str, dict[str, Any]]) -> str:
    """Markdown with a row per change, all tasks together and each task's successes."""
    tasks = next(iter(rows.values()))["tasks"]
    titles = {"row": "row", "all": "success"} | {task: task.removesuffix("-v3") for task in tasks}
    lines = [
        {"row": name, "all": success(figures)}
        | {task: f"{counts['successes']}/{counts['episodes']}" for task, counts in figures["tasks"].items()}
        for name, figures in rows.items()
    ]
    return markdown(lines, titles)


def main(settings: Settings) -> None:
    machine = Machine()
    common = ["preset=mt50", f"env.tasks=[{','.join(settings.tasks)}]", f"episodes={settings.demos}"]
    common.append("trainer.processes=1")  # `jobs` trainings share the cores
    study = Study(settings, common)
    for row in settings.rows:
        prepare_data([*study.common, *ROWS[row]])
    cells = {row: study.cell("tinyvla", settings.steps, *ROWS[row]) for row in settings.rows}
    run_cells(list(cells.values()), settings.jobs)
    rows = {row: cell.run() for row, cell in cells.items()}
    if "recipe" in cells:
        for horizon in settings.horizons:
            rows[f"horizon {horizon}"] = evaluate_horizon(cells["recipe"], horizon, settings)

    title = f"{machine.title(study.threads)}; {settings.steps} steps; {settings.demos} demonstrations per task; "
    text = f"{title}{settings.episodes} unseen episodes per task; one training seed ({settings.seed})\n\n{table(rows)}"
    conditions = study.conditions | {"steps": settings.steps, "changes": {row: ROWS[row] for row in cells}}
    result = machine.describe(study.threads) | {"setting": conditions, "rows": rows}
    keep("mt50_ablation", result, text)
    print(text + "\n")
    print(json.dumps({row: [figures["successes"], figures["episodes"]] for row, figures in rows.items()}))


if __name__ == "__main__":
    start(main, Settings, __doc__)
