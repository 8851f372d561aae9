"""LeRobot's SmolVLA and Diffusion Policy on MT50: the demonstrations, cameras, time and protocol of `benchmarks.mt50`.

    uv run python -m benchmarks.mt50_peers                 # hours; the same command goes on after a stop
    uv run python -m benchmarks.mt50_peers minutes=2 'tasks=[mt10]' 'peers=[smolvla]'

Every peer trains for `minutes` of this machine: its speed is measured once, alone, and turned into steps. Diffusion is
trained with both targets, the noise and the action chunk itself; and, on the seven hard tasks of the ablation, once per
task with a seventh of the time. Finished trainings are never run again.

Writes results/mt50_peers.json and .md. The last line is one JSON object.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.harness import Cell, Study, StudySettings, prepare_data, run_cells
from benchmarks.machine import RESULTS, Machine, keep, markdown, success
from benchmarks.mt50 import GROUPS, MAX_STEPS, groups_of, means_of
from benchmarks.mt50_ablation import HARD
from benchmarks.settings import setting, start

CAMERAS = "env.cameras=[corner2_table,topview_table,gripperPOV]"  # of preset=mt50
# Policy of LeRobot, and what a row changes of its preset for a CPU.
PEERS = {
    "smolvla": ("smolvla", []),
    "diffusion": ("diffusion", []),
    "diffusion-sample": ("diffusion", ["policy.prediction_type=sample"]),
}


@dataclass
class Settings(StudySettings):
    """Settings of the command line."""

    peers: list[str] = setting(list(PEERS), "rows to run", PEERS)
    minutes: float | None = setting(None, "of training; null: as long as mt50.json's policies trained")  # type: ignore[assignment]
    tasks: list[str] = setting(["mt50"], "tasks and suites")
    per_task: list[str] = setting(HARD, "tasks with a Diffusion Policy of their own")
    episodes: int = setting(10, "evaluation episodes per task")
    demos: int = setting(50, "demonstrations per task")


def minutes_of_mt50() -> float:
    """Minutes of training of the committed policies. Raises SystemExit if there are none."""
    file = RESULTS / "mt50.json"
    if not file.exists():
        raise SystemExit("error: results/mt50.json does not exist; give minutes=...")
    return 60 * json.loads(file.read_text())["training_hours"]


def cells_of(study: Study, settings: Settings, minutes: float) -> dict[str, Cell]:
    """Trainings by row: every peer on all tasks, then Diffusion on each task of its own."""
    tasks = f"env.tasks=[{','.join(settings.tasks)}]"
    cells = {}
    for row in settings.peers:
        policy, changes = PEERS[row]
        cells[row] = study.cell(policy, _steps(study, policy, minutes, tasks, *changes), tasks, *changes)
    policy, changes = PEERS["diffusion-sample"]
    for task in settings.per_task:
        single_task = [f"env.tasks=[{task}]", *changes]
        steps = _steps(study, policy, minutes / len(settings.per_task), *single_task)
        cells[f"diffusion-sample {task}"] = study.cell(policy, steps, *single_task)
    return cells


def _steps(study: Study, policy: str, minutes: float, *overrides: str) -> int:
    prepare_data([*study.common, *overrides])
    speed = study.speed(policy, *overrides)
    return max(1, round(60 * minutes * speed["samples_per_s"] / speed["batch_size"]))


def summarise(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Both means and the groups of a policy for all tasks."""
    counts = {task: (n["successes"], n["episodes"]) for task, n in figures["tasks"].items()}
    return means_of(counts) | {"groups": groups_of(counts), "tasks": {task: list(n) for task, n in counts.items()}}


def tables(peers: Mapping[str, Any], per_task: Mapping[str, Any]) -> str:
    """Markdown of both tables."""
    rows = [
        {"policy": name, "groups": f"{peer['mean_of_groups']:.1f}", "tasks": f"{peer['mean_of_tasks']:.1f}"}
        | {group: figures["percent"] for group, figures in peer["groups"].items()}
        for name, peer in peers.items()
    ]
    titles = {"policy": "policy"} | {group: group.replace("_", " ") for group in GROUPS}
    blocks = [markdown(rows, titles | {"groups": "mean of groups", "tasks": "mean of tasks"})] if rows else []
    if per_task:
        rows = [{"task": task, "success": success(figures)} for task, figures in per_task.items()]
        blocks.append(markdown(rows, {"task": "task", "success": "Diffusion Policy of its own"}))
    return "\n\n".join(blocks)


def main(settings: Settings) -> None:
    machine, minutes = Machine(), settings.minutes or minutes_of_mt50()
    study = Study(settings, [CAMERAS, f"episodes={settings.demos}", f"env.max_steps={MAX_STEPS}"])
    cells = cells_of(study, settings, minutes)
    run_cells(list(cells.values()), settings.jobs)
    figures = {row: cell.run() for row, cell in cells.items()}
    peers = {row: summarise(figures[row]) for row in settings.peers}
    per_task = {task: figures[f"diffusion-sample {task}"]["tasks"][task] for task in settings.per_task}
    title = (
        f"{machine.title(study.threads)}; {minutes:.0f} minutes of training; {settings.demos} demonstrations per task; "
        f"success at any of {MAX_STEPS} control steps; {settings.episodes} unseen episodes per task; one training seed"
    )
    text = f"{title}\n\n{tables(peers, per_task)}"
    conditions = study.conditions | {"minutes": minutes}
    result = machine.describe(study.threads) | {"setting": conditions, "peers": peers, "per_task": per_task}
    keep("mt50_peers", result, text)
    print(text + "\n")
    print(json.dumps({row: peer["mean_of_groups"] for row, peer in peers.items()}))


if __name__ == "__main__":
    start(main, Settings, __doc__)
