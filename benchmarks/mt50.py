"""Meta-World MT50: one policy, 50 tasks, 50 demonstrations per task, beside the published ones.

    uv run python -m benchmarks.mt50                               # hours; the same command goes on after a stop
    uv run python -m benchmarks.mt50 seeds=[0] tasks=[mt10] steps=500

Collects, trains `preset=mt50` with each training seed, and evaluates every policy on each evaluation seed: success at
any of 400 control steps. With `language=true` the same policies play with one sentence for all tasks, and with other
tasks' sentences. Finished trainings and evaluations are kept in results/cells and never run again.

Writes results/mt50.json, .md and .png: per task, per difficulty group, the mean of the groups, which is what papers
print, and the mean of the tasks. The last line is one JSON object.
"""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.harness import FIGURES, Ledger
from benchmarks.machine import RESULTS, ROOT, Machine, keep, markdown
from benchmarks.settings import setting, start
from envs import decode_env
from envs.contract import as_arguments
from envs.metaworld.tasks import SUITES
from tinyvla.intervals import wilson_interval

GROUPS = ("easy", "medium", "hard", "very_hard")
MAX_STEPS = 400
ONE_SENTENCE = "do the task"
# Name, parameters in 10^9, success in percent per group and the mean of the groups, as the authors print them.
PUBLISHED = [
    ("Diffusion Policy", 0.1, (23.1, 10.7, 1.9, 6.1), 10.5),
    ("TinyVLA-H", 1.3, (77.6, 21.5, 11.4, 15.8), 31.6),
    ("pi0", 3.5, (71.8, 48.2, 41.7, 30.0), 47.9),
    ("SmolVLA-0.45B", 0.45, (82.5, 41.8, 45.0, 60.0), 57.3),
    ("SmolVLA-2.25B", 2.25, (87.1, 51.8, 70.0, 64.0), 68.2),
    ("ProgVLA", 0.1, None, 78.5),
    ("Evo-1", 0.77, (89.2, 76.8, 77.2, 79.2), 80.6),
    ("FabriVLA", 0.89, (95.0, 88.2, 86.7, 90.0), 90.0),
]


@dataclass
class Settings:
    """Settings of the command line."""

    preset: str = setting("mt50", "preset of train.py", ["mt50", "mt50_gpu"])
    seeds: list[int] = setting([0, 1], "training seeds, which select the demonstrations too")
    evaluation_seeds: list[int] = setting([0, 1, 2], "evaluation seeds; every one has `episodes` episodes per task")
    episodes: int = setting(10, "evaluation episodes per task and seed")
    tasks: list[str] = setting(["mt50"], "tasks and suites")
    steps: int | None = setting(None, "training steps; null: the preset's")
    language: bool = setting(True, "also evaluate with one sentence for all tasks, and with wrong ones")
    overrides: list[str] = setting([], "further settings of train.py")
    work: Path = setting(Path("outputs/mt50"), "folder of the runs")


class Run:
    """One training, and its evaluations, in folders below `work`."""

    def __init__(self, settings: Settings, seed: int, ledger: Ledger):
        self.settings, self.seed, self._ledger = settings, seed, ledger
        steps = [] if settings.steps is None else [f"trainer.steps={settings.steps}"]
        tasks = f"env.tasks=[{','.join(settings.tasks)}]"
        self.overrides = [f"preset={settings.preset}", f"seed={seed}", tasks, *steps, *settings.overrides]
        self.folder = ROOT / settings.work / f"seed-{seed}"
        self.name = " ".join(["mt50", *self.overrides])

    def train(self) -> dict[str, Any]:
        """Size and training time of the policy; trains it unless that has been done."""
        if figures := self._ledger.get(self.name):
            return figures
        from policies import load_policy
        from tinyvla.training import read_metrics

        begun = (self.folder / "config.yaml").is_file()
        rest = ["resume=true"] if begun else [*self.overrides, "eval.episodes=0"]
        call(["train.py", f"run_dir={self.folder}", *rest])
        records = read_metrics(self.folder / "metrics.jsonl")
        speeds = [record["train/samples_per_s"] for record in records if "train/samples_per_s" in record]
        config = load_yaml(self.folder / "config.yaml")
        batch, steps = config["trainer"]["batch_size"], config["trainer"]["steps"]
        policy = load_policy(self.folder, "cpu").policy
        return self._ledger.add(
            self.name,
            {
                "parameters_m": round(sum(p.numel() for p in policy.parameters()) / 1e6, 2),
                "steps": steps,
                "samples": steps * batch,
                "training_hours": round(steps * batch / (len(speeds) / sum(1 / s for s in speeds)) / 3600, 2),
                "demonstrations": config["episodes"],
                "final_loss": round(mean(r["train/loss"] for r in records[-50:] if "train/loss" in r), 5),
            },
        )

    def evaluate(self, seed: int, *changes: str) -> dict[str, Any]:
        """Figures per task on an evaluation seed; `changes`: settings of evaluate.py for the sentences."""
        episodes = self.settings.episodes
        name = " ".join([self.name, f"evaluation {seed} episodes {episodes}", *changes])
        if figures := self._ledger.get(name):
            return figures
        label = "".join(character if character.isalnum() else "-" for character in "".join(changes))
        folder = self.folder.with_name(f"{self.folder.name}-evaluation-{seed}{label}")
        env = load_yaml(self.folder / "config.yaml")["env"]
        scene = [f"env.{argument}" for argument in as_arguments(decode_env(env).own_settings())]
        call(
            [
                *("evaluate.py", f"checkpoint={self.folder}", f"run_dir={folder}", "videos=0", f"episodes={episodes}"),
                *(
                    f"seed={seed}",
                    f"env.tasks=[{','.join(env['tasks'])}]",
                    f"env.max_steps={MAX_STEPS}",
                    *scene,
                    *changes,
                ),
            ]
        )
        result = json.loads((folder / "eval.json").read_text())
        tasks = {task: {key: figures[key] for key in FIGURES} for task, figures in result["tasks"].items()}
        wrong = {
            task: [sum(cell[key] for cell in cells.values()) for key in ("successes", "episodes")]
            for task, cells in result.get("wrong_instructions", {}).items()
        }
        chosen = ("episode_length", "ms_per_action", "ms_per_action_p95")
        return self._ledger.add(name, {key: result[key] for key in chosen} | {"tasks": tasks, "wrong": wrong})


def call(arguments: Sequence[str]) -> None:
    """Run an entry point, its output on stderr. Raises SystemExit if it fails."""
    if subprocess.run([sys.executable, *arguments], cwd=ROOT, stdout=sys.stderr).returncode:
        raise SystemExit(f"error: {' '.join(arguments)} failed; the lines above say why")


def load_yaml(file: Path) -> dict[str, Any]:
    import yaml

    return yaml.safe_load(file.read_text())


def groups_of(counts: Mapping[str, tuple[int, int]]) -> dict[str, dict[str, Any]]:
    """Successes, episodes, percent and interval per difficulty group, from (successes, episodes) per task."""
    groups = {}
    for group in GROUPS:
        inside = [counts[task] for task in SUITES[group] if task in counts]
        if inside:
            successes, episodes = (sum(column) for column in zip(*inside, strict=True))
            groups[group] = {
                "successes": successes,
                "episodes": episodes,
                "percent": round(100 * successes / episodes, 1),
                "ci95": [round(100 * limit, 1) for limit in wilson_interval(successes, episodes)],
            }
    return groups


def means_of(counts: Mapping[str, tuple[int, int]]) -> dict[str, float]:
    """Mean of the groups and mean of the tasks, in percent."""
    return {
        "mean_of_groups": round(mean(group["percent"] for group in groups_of(counts).values()), 1),
        "mean_of_tasks": round(mean(100 * successes / episodes for successes, episodes in counts.values()), 1),
    }


def add_counts(results: Sequence[Mapping[str, Any]]) -> dict[str, tuple[int, int]]:
    """Successes and episodes per task over several evaluations."""
    return {
        task: tuple(sum(result["tasks"][task][key] for result in results) for key in ("successes", "episodes"))
        for task in results[0]["tasks"]
    }  # type: ignore[return-value]


def summarise(trainings: Mapping[int, Any], results: Mapping[tuple[int, int], Any]) -> dict[str, Any]:
    """Content of mt50.json without language: all policies and seeds together, and each of them."""
    counts = add_counts(list(results.values()))
    first = next(iter(trainings.values()))
    return means_of(counts) | {
        "groups": groups_of(counts),
        "tasks": {task: list(count) for task, count in counts.items()},
        "by_seed": {f"training {t}, evaluation {e}": means_of(add_counts([r])) for (t, e), r in results.items()},
        "parameters_m": first["parameters_m"],
        "episodes": sum(episodes for _, episodes in counts.values()),
        "demonstrations": first["demonstrations"],
        "training_hours": max(training["training_hours"] for training in trainings.values()),
        "trainings": {str(seed): training for seed, training in trainings.items()},
        "max_steps": MAX_STEPS,
    }


def summarise_language(runs: Sequence[Run], evaluation_seed: int, plain: Mapping[str, Any]) -> dict[str, Any]:
    """Success per group with the right sentence, one sentence for all tasks, and another task's, on one seed."""
    one = [run.evaluate(evaluation_seed, f"instruction={ONE_SENTENCE}") for run in runs]
    wrong = [run.evaluate(evaluation_seed, f"wrong_instructions={run.settings.episodes}") for run in runs]
    wrong_counts = {
        task: tuple(sum(result["wrong"][task][i] for result in wrong) for i in range(2)) for task in wrong[0]["wrong"]
    }
    conditions: dict[str, Any] = {"own": plain, "one sentence": add_counts(one), "another task's": wrong_counts}
    return {name: means_of(counts) | {"groups": groups_of(counts)} for name, counts in conditions.items()}


def table(result: Mapping[str, Any]) -> str:
    """Markdown: this policy between the published ones, by the mean of the groups."""
    rows = [
        {"policy": name, "size": f"{size:g} B", "mean": f"{total:.1f}"}
        | dict(zip(GROUPS, (f"{value:.1f}" for value in values or ()), strict=False))
        for name, size, values, total in PUBLISHED
    ]
    row = {group: f"**{figures['percent']:.1f}**" for group, figures in result["groups"].items()}
    row |= {"policy": "**this repository**", "size": f"{result['parameters_m']:g} M"}
    rows.append(row | {"mean": f"**{result['mean_of_groups']:.1f}**"})
    rows.sort(key=lambda row: float(row["mean"].strip("*")))
    titles = {"policy": "policy", "size": "parameters"} | {group: group.replace("_", " ") for group in GROUPS}
    return markdown(rows, titles | {"mean": "mean of groups"})


def tables(result: Mapping[str, Any]) -> str:
    """All tables of mt50.md."""
    groups = [
        {"group": group, "percent": f"{figures['percent']:.1f}", "interval": "{}–{}".format(*figures["ci95"])}
        | {"n": figures["episodes"]}
        for group, figures in result["groups"].items()
    ]
    seeds = [{"seeds": name} | means for name, means in result["by_seed"].items()]
    ordered = sorted(result["tasks"].items(), key=lambda item: item[1][0])
    counts = [{"task": task, "n": f"{successes}/{episodes}"} for task, (successes, episodes) in ordered]
    titles = {"mean_of_groups": "mean of groups", "mean_of_tasks": "mean of tasks"}
    blocks = [
        table(result),
        f"Mean of tasks: {result['mean_of_tasks']:.1f}.",
        markdown(groups, {"group": "group", "percent": "success (%)", "interval": "95% interval", "n": "episodes"}),
        markdown(seeds, {"seeds": "seeds"} | titles),
    ]
    if language := result.get("language"):
        rows = [
            {"sentence": sentence, "mean": figures["mean_of_groups"]}
            | {group: values["percent"] for group, values in figures["groups"].items()}
            for sentence, figures in language.items()
        ]
        names = {"sentence": "sentence"} | {group: group.replace("_", " ") for group in GROUPS}
        blocks.append(markdown(rows, names | {"mean": "mean of groups"}))
    return "\n\n".join([*blocks, markdown(counts, {"task": "task", "n": "successes"})])


def plot(result: Mapping[str, Any], path: Path) -> None:
    """Draw the mean of the groups against parameters, beside the published policies."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for name, size, _, total in PUBLISHED:
        axes.plot(size * 1e3, total, "o", color="0.6")
        axes.annotate(name, (size * 1e3, total), (6, -3), textcoords="offset points", fontsize=8)
    point = (result["parameters_m"], result["mean_of_groups"])
    axes.plot(*point, "o", markersize=9)
    axes.annotate("this repository", point, (9, -3), textcoords="offset points", fontsize=9, weight="bold")
    axes.set(xscale="log", xlim=(1, 12000), ylim=(0, 100))
    axes.set(xlabel="parameters (millions, log)", ylabel="Meta-World MT50, mean of groups (%)")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def main(settings: Settings) -> None:
    machine, ledger = Machine(), Ledger()
    runs = [Run(settings, seed, ledger) for seed in settings.seeds]
    trainings = {run.seed: run.train() for run in runs}
    results = {(run.seed, seed): run.evaluate(seed) for run in runs for seed in settings.evaluation_seeds}
    result = summarise(trainings, results)
    if settings.language:
        seed = settings.evaluation_seeds[0]
        counts = add_counts([results[run.seed, seed] for run in runs])
        result["language"] = summarise_language(runs, seed, counts)
    title = (
        f"{machine.title(machine.cores)}; {result['demonstrations']} demonstrations per task; success at any of "
        f"{MAX_STEPS} control steps; {result['episodes']} episodes on unseen seeds; training seeds {settings.seeds}, "
        f"evaluation seeds {settings.evaluation_seeds}"
    )
    keep("mt50", machine.describe(machine.cores) | result, f"{title}\n\n{tables(result)}")
    plot(result, RESULTS / "mt50.png")
    print(tables(result) + "\n")
    print(json.dumps({key: result[key] for key in ("mean_of_groups", "mean_of_tasks", "episodes", "training_hours")}))


if __name__ == "__main__":
    start(main, Settings, __doc__)
