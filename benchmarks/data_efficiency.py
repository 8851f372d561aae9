"""Success against demonstrations a task, TinyVLA beside LeRobot's own policies on the same unseen seeds.

    uv run benchmarks/data_efficiency.py
    uv run benchmarks/data_efficiency.py --demos 5 50 --policies tinyvla act --minutes 5 --jobs 2

Every policy trains for the same wall time (turned into steps by its speed, as in compare.py) whatever the number of
demonstrations; fewer are the first of the more. What is finished is never run again: the same command goes on where it
was stopped.

Writes results/<date>-data-efficiency.json, .md and .png beside this file. The last line is one JSON object.
"""

import argparse
import json
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import Study, add_arguments, prepare_data, run_cells
from benchmarks.machine import RESULTS, Machine, keep, markdown

Curve = dict[int, dict[str, Any]]  # eval.json by number of demonstrations


def table(curves: dict[str, Curve]) -> str:
    """A row a policy, a column a number of demonstrations a task."""

    def cell(result: dict[str, Any]) -> str:
        low, high = result["ci95"]
        return f"{result['successes']}/{result['episodes']} ({100 * low:.0f}–{100 * high:.0f}%)"

    counts = list(next(iter(curves.values())))
    rows = [{"policy": policy} | {str(n): cell(curve[n]) for n in counts} for policy, curve in curves.items()]
    return markdown(rows, {"policy": "policy"} | {str(n): f"{n} demonstrations" for n in counts})


def plot(curves: dict[str, Curve], path: Path) -> None:
    """Success with its 95% interval against demonstrations a task."""
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
    axes.set(xlabel="demonstrations a task", ylabel="success, with 95% intervals", ylim=(-0.03, 1.05))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", fontsize=8)  # over no line, wherever they run
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demos", nargs="+", type=int, default=[5, 10, 25, 50], help="a task (default: %(default)s)")
    parser.add_argument("--tasks", nargs="+", default=["default"], help="tasks and suites (default: %(default)s)")
    add_arguments(parser, minutes=10)
    args = parser.parse_args()

    machine = Machine()
    study = Study(args, [f"env.tasks=[{','.join(args.tasks)}]"])
    counts = sorted(args.demos, reverse=True)  # what is collected for the most serves the fewer
    for count in counts:
        prepare_data([*study.common, f"episodes={count}"])
    speeds = {policy: study.speed(policy, f"episodes={counts[0]}") for policy in args.policies}
    steps = {
        policy: round(speed["samples_per_s"] * args.minutes * 60 / speed["batch_size"])
        for policy, speed in speeds.items()
    }
    cells = {
        (policy, count): study.cell(policy, steps[policy], f"episodes={count}") for count in counts for policy in speeds
    }
    run_cells(list(cells.values()), args.jobs)
    curves = {policy: {count: cells[policy, count].run() for count in sorted(counts)} for policy in speeds}

    stem = f"{date.today()}-data-efficiency"
    title = f"{machine.title(study.threads)}; {', '.join(args.tasks)}; {args.minutes:g} minutes of training; "
    text = f"{title}{args.episodes} unseen seeds a task\n\n{table(curves)}"
    setting = study.setting | {"tasks": args.tasks}
    keep(stem, machine.describe(study.threads) | {"setting": setting, "curves": curves}, text)
    plot(curves, RESULTS / f"{stem}.png")
    print(text + "\n")
    figures = {
        policy: {n: [result["successes"], result["episodes"]] for n, result in curve.items()}
        for policy, curve in curves.items()
    }
    print(json.dumps(machine.describe(study.threads) | {"setting": setting, "successes": figures}))


if __name__ == "__main__":
    main()
