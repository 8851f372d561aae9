"""TinyVLA beside LeRobot's own policies: the same demonstrations, cameras, instructions, and unseen seeds.

    uv run benchmarks/compare.py                                  # the default suite
    uv run benchmarks/compare.py --suite harder --minutes 15

Two tables. In the first every policy trains for the same wall time: its speed is measured once on the quiet machine and
turned into steps. In the second every policy sees the same number of samples. What is finished is never run again: the
same command goes on where it was stopped. Times of inference are taken at equal replanning rate, a new chunk every
`n_action_steps` actions, in a process that does nothing else.

Writes results/<date>-<suite>.json, .md and .png beside this file. The last line is one JSON object.
"""

import argparse
import json
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from harness import ROOT, Cell, in_own_process, training_speed
from inference import peak_memory_mb
from machine import RESULTS, Machine, keep, markdown, write_text
from samplers import random_observation

SUITES = {
    "default": ["default"],
    "harder": ["pick-place-v3", "push-v3", "reach-v3", "door-open-v3", "window-open-v3", "peg-unplug-side-v3"],
}
PACKAGES = ("lerobot", "torch", "transformers", "diffusers", "mujoco", "metaworld")
POLICIES = ["tinyvla", "act", "diffusion", "vqbet", "smolvla", "multi_task_dit"]
CALIBRATION_STEPS = 60
TITLES = {
    "policy": "policy",
    "success": "success",
    "ci95": "95% interval",
    "worst": "worst task",
    "parameters_m": "parameters (M)",
    "samples": "samples seen",
    "samples_per_s": "training samples/s",
    "chunk_ms": "ms a chunk",
    "action_ms": "ms an action",
    "peak_memory_mb": "peak memory (MB)",
    "checkpoint_mb": "checkpoint (MB)",
}


def inference(checkpoint: str, chunks: int = 30) -> dict[str, Any]:
    """Size of a trained policy, and time and memory of running it at its replanning rate, measured in this process."""
    from policies import PolicyRunner, find_checkpoint

    folder = find_checkpoint(checkpoint)
    runner = PolicyRunner.from_checkpoint(folder)
    config = runner.policy.config
    observation = random_observation(runner)
    times = []
    for _ in range((chunks + 3) * config.n_action_steps):
        start = time.perf_counter()
        runner.act(observation)
        times.append((time.perf_counter() - start) * 1e3)
    # Every chunk's first action computes it, the others take it from the queue.
    rounds = np.array(times).reshape(-1, config.n_action_steps)[3:]
    return {
        "parameters_m": round(sum(p.numel() for p in runner.policy.parameters()) / 1e6, 2),
        "n_action_steps": config.n_action_steps,
        "chunk_ms": round(float(np.median(rounds.max(axis=1))), 1),
        "action_ms": round(float(np.median(rounds.mean(axis=1))), 2),
        "peak_memory_mb": round(peak_memory_mb("cpu")),
        "checkpoint_mb": round((folder / "model.safetensors").stat().st_size / 1e6, 1),
    }


class Comparison:
    """The cells of both tables, and what has been measured so far, kept in one folder."""

    def __init__(self, args: argparse.Namespace):
        self.args = args
        self.folder = ROOT / args.work / args.suite
        self.file = self.folder / "measured.json"
        self.measured: dict[str, Any] = json.loads(self.file.read_text()) if self.file.exists() else {}
        self.common = [
            f"env.tasks=[{','.join(SUITES[args.suite])}]",
            f"episodes={args.demos}",
            f"seed={args.seed}",
            *args.set,
        ]
        setting = {"common": self.common, "minutes": args.minutes, "episodes": args.episodes}
        if self.measured.setdefault("setting", setting) != setting:
            sys.exit(
                f"error: {self.folder} holds a comparison with other settings ({self.measured['setting']}); "
                "give those, or another --work folder"
            )

    def measure(self, name: str, *arguments: str) -> dict[str, Any]:
        """What a mode of this script measures in a process of its own, once."""
        if name not in self.measured:
            print(f"measuring {name}", file=sys.stderr, flush=True)
            self.measured[name] = in_own_process(__file__, *arguments)
            write_text(self.file, json.dumps(self.measured, indent=1))
        return self.measured[name]

    def speed(self, policy: str) -> dict[str, Any]:
        """Training speed of a policy."""
        settings = [f"--set={setting}" for setting in self.common]
        return self.measure(f"speed/{policy}", "--speed-of", policy, *settings)

    def row(self, budget: str, policy: str, samples: int) -> dict[str, Any]:
        """Train, evaluate and measure one policy for about `samples` samples."""
        speed = self.speed(policy)
        steps = max(1, round(samples / speed["batch_size"]))
        run = ["logger=none", "trainer.validate_every=0", "eval.wrong_instructions=0", "eval.videos=0"]
        run += [f"eval.episodes={self.args.episodes}", f"trainer.steps={steps}"]
        cell = Cell(self.folder / budget / policy, (f"policy={policy}", *self.common, *run))
        result = cell.run()
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
            **self.measure(f"inference/{budget}/{policy}", "--inference-of", str(cell.folder)),
        }


def by_task(rows: list[dict[str, Any]]) -> str:
    """Successes of every policy in every task, with Wilson's interval."""

    def cell(figures: dict[str, Any]) -> str:
        low, high = figures["ci95"]
        return f"{figures['successes']}/{figures['episodes']} ({100 * low:.0f}–{100 * high:.0f}%)"

    tasks = list(rows[0]["tasks"])
    titles = {"policy": "policy"} | {task: task for task in tasks}
    return markdown([{"policy": r["policy"]} | {t: cell(r["tasks"][t]) for t in tasks} for r in rows], titles)


def plot(tables: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Success with intervals, and success against milliseconds an action, of every budget."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

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
    speed.set(xscale="log", xlabel="ms an action (log)", ylim=(-0.03, 1.05))
    bars.set(ylabel="success, with 95% intervals", ylim=(0, 1.05))
    bars.legend(fontsize=8)
    for axes in (bars, speed):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", choices=list(SUITES), default="default")
    parser.add_argument("--policies", nargs="+", default=POLICIES, help="choices of train.py's policy")
    parser.add_argument("--minutes", type=float, default=10, help="of training, first table (default: %(default)s)")
    parser.add_argument("--samples", type=int, help="second table; default: what the slowest takes in --minutes")
    parser.add_argument("--demos", type=int, default=60, help="demonstrations a task (default: %(default)s)")
    parser.add_argument("--episodes", type=int, default=20, help="of evaluation a task (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], help="a further setting of train.py, for every policy")
    parser.add_argument("--work", type=Path, default=Path("outputs/compare"), help="where runs are kept")
    parser.add_argument("--speed-of", help=argparse.SUPPRESS)
    parser.add_argument("--inference-of", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.speed_of:
        print(json.dumps(training_speed(args.speed_of, args.set, CALIBRATION_STEPS)))
        return
    if args.inference_of:
        print(json.dumps(inference(args.inference_of)))
        return

    comparison = Comparison(args)
    machine = Machine()
    where = machine.describe(machine.cores, PACKAGES)
    rates = {policy: comparison.speed(policy)["samples_per_s"] for policy in args.policies}
    samples = args.samples or round(min(rates.values()) * args.minutes * 60)
    budgets = {
        f"{args.minutes:g} minutes of training": {p: round(rates[p] * args.minutes * 60) for p in args.policies},
        f"{samples} samples": dict.fromkeys(args.policies, samples),
    }
    tables = {}
    for budget, wanted in budgets.items():
        name = "time" if budget.endswith("training") else "samples"
        tables[budget] = [comparison.row(name, policy, count) for policy, count in wanted.items()]

    stem = f"{date.today()}-{args.suite}"
    paragraphs = [
        f"{machine.title(machine.cores, PACKAGES)}; {', '.join(SUITES[args.suite])}; {args.demos} demonstrations and "
        f"{args.episodes} unseen seeds a task"
    ]
    for budget, rows in tables.items():
        paragraphs += [f"### {budget}", markdown(rows, TITLES), by_task(rows)]
    text = "\n\n".join(paragraphs)
    result = where | {"suite": args.suite, "setting": comparison.measured["setting"], "tables": tables}
    keep(stem, result, text)
    plot(tables, RESULTS / f"{stem}.png")
    print(text + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
