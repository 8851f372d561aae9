"""Worth of the instruction in Meta-World's suite `language`, where nothing else tells the two tasks of a pair apart.

    uv run python -m benchmarks.language                       # an hour or two; the same command goes on after a stop
    uv run python -m benchmarks.language pairs=1 episodes=2 steps=4 overrides=[episodes=2,trainer.batch_size=4]

Trains the default policy on the suite (`env=metaworld_language`). Then it plays the same unseen scenes with each task's
own sentence, with one sentence for all tasks, and with the sentence of the pair's other task. Finished trainings and
evaluations stay in `work` and are not run again. As a rule, a policy that ignores the sentence solves at most half of
the episodes in every row.

Writes results/language.json and .md. The last line is one JSON object.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.machine import ROOT, Machine, keep, markdown
from benchmarks.mt50 import ONE_SENTENCE, call, load_yaml
from benchmarks.settings import setting, start
from envs import decode_env
from envs.contract import as_arguments
from envs.metaworld.shared_starts import PAIRS
from tinyvla.intervals import wilson_interval

ROWS = {"own": "own sentence", "missing": f"'{ONE_SENTENCE}' for all", "wrong": "sentence of the pair's other task"}
SCENE = ("cameras", "image_size", "render", "max_steps")  # settings of env besides those that only Meta-World has
Counts = tuple[int, int]  # successes, episodes


@dataclass
class Settings:
    """Settings of the command line."""

    pairs: int = setting(len(PAIRS), "pairs of the suite, the first of them")
    seeds: list[int] = setting([0], "training seeds, which select the demonstrations too")
    evaluation_seed: int = setting(0, "seed of the evaluation's scenes")
    episodes: int = setting(10, "evaluation episodes per task, sentence and training seed")
    steps: int = setting(2500, "training steps")
    overrides: list[str] = setting([], "further settings of train.py")
    work: Path = setting(Path("outputs/language"), "folder of the runs")


class Run:
    """One training, and its evaluations, in folders below `work` that are named after their settings."""

    def __init__(self, settings: Settings, seed: int):
        tasks = ",".join(task for pair in list(PAIRS)[: settings.pairs] for task in pair)
        self._settings = settings
        self._overrides = ["env=metaworld_language", f"env.tasks=[{tasks}]", f"seed={seed}"]
        self._overrides += [f"trainer.steps={settings.steps}", *settings.overrides]
        self.folder = ROOT / settings.work / _label(self._overrides)

    def train(self) -> None:
        """Train the policy, or go on with its training."""
        begun = (self.folder / "config.yaml").is_file()
        rest = ["resume=true"] if begun else [*self._overrides, "eval.episodes=0"]
        call(["train.py", f"run_dir={self.folder}", *rest])

    def play(self, pair: tuple[str, str]) -> dict[str, Counts]:
        """Successes and episodes of a pair's two tasks by the row of the table."""
        sentences = self._evaluate(pair, f"wrong_instructions={self._settings.episodes}")
        missing = self._evaluate(pair, f"instruction={ONE_SENTENCE}")
        wrong = [cell for cells in sentences["wrong_instructions"].values() for cell in cells.values()]
        figures = {"own": sentences["tasks"].values(), "missing": missing["tasks"].values(), "wrong": wrong}
        return {row: _add((cell["successes"], cell["episodes"]) for cell in cells) for row, cells in figures.items()}

    def _evaluate(self, pair: tuple[str, str], change: str) -> dict[str, Any]:
        """Content of eval.json of a pair's two tasks in the scenes of the run."""
        chosen = [f"env.tasks=[{','.join(pair)}]", change]
        chosen += [f"episodes={self._settings.episodes}", f"seed={self._settings.evaluation_seed}"]
        folder = self.folder.with_name(f"{self.folder.name}-{_label(chosen)}")
        if not (folder / "eval.json").exists():
            env_cfg = decode_env(load_yaml(self.folder / "config.yaml")["env"])
            scene = {name: getattr(env_cfg, name) for name in SCENE} | env_cfg.own_settings()
            chosen += [f"env.{argument}" for argument in as_arguments(scene)]
            call(["evaluate.py", f"checkpoint={self.folder}", f"run_dir={folder}", "videos=0", *chosen])
        return json.loads((folder / "eval.json").read_text())

    def describe(self) -> dict[str, Any]:
        """Policy, demonstrations per task and length of the training."""
        config = load_yaml(self.folder / "config.yaml")
        trainer = {name: config["trainer"][name] for name in ("steps", "batch_size")}
        return {"policy": config["policy"]["type"], "demonstrations": config["episodes"]} | trainer


def _label(arguments: Iterable[str]) -> str:
    return hashlib.sha256(" ".join(arguments).encode()).hexdigest()[:8]


def _add(counts: Iterable[Counts]) -> Counts:
    successes, episodes = zip(*counts, strict=True)
    return sum(successes), sum(episodes)


def summarise(counts: Mapping[str, Mapping[str, Counts]]) -> dict[str, Any]:
    """Rows of all pairs together with their intervals in percent, and successes and episodes of each pair.

    counts: successes and episodes by pair and row.
    """
    rows = {}
    for row in ROWS:
        successes, episodes = _add(cells[row] for cells in counts.values())
        interval = [round(100 * limit, 1) for limit in wilson_interval(successes, episodes)]
        rows[row] = {"successes": successes, "episodes": episodes, "ci95": interval}
    return {"rows": rows, "pairs": counts}


def tables(result: Mapping[str, Any]) -> str:
    """Markdown with a row per sentence, and with a row per pair."""
    rows = [
        {"sentence": ROWS[row], "success": f"{figures['successes']}/{figures['episodes']}"}
        | {
            "percent": f"{100 * figures['successes'] / figures['episodes']:.1f}",
            "interval": "{}–{}".format(*figures["ci95"]),
        }
        for row, figures in result["rows"].items()
    ]
    pairs = [
        {"pair": pair} | {row: "{}/{}".format(*cell) for row, cell in cells.items()}
        for pair, cells in result["pairs"].items()
    ]
    titles = {"sentence": "sentence", "success": "successes", "percent": "%", "interval": "95% interval (%)"}
    return f"{markdown(rows, titles)}\n\n{markdown(pairs, {'pair': 'pair'} | ROWS)}"


def main(settings: Settings) -> None:
    machine, runs = Machine(), [Run(settings, seed) for seed in settings.seeds]
    for run in runs:
        run.train()
    counts = {}
    for pair in list(PAIRS)[: settings.pairs]:
        results = [run.play(pair) for run in runs]
        counts[", ".join(pair)] = {row: _add(result[row] for result in results) for row in ROWS}
    training = runs[0].describe()
    conditions = {"seeds": settings.seeds, "evaluation_seed": settings.evaluation_seed, "steps": settings.steps}
    conditions["overrides"] = settings.overrides
    result = summarise(counts) | {"training": training, "conditions": conditions}
    title = (
        f"{machine.title(machine.cores)}; {training['policy']}, {training['demonstrations']} demonstrations per task, "
        f"{training['steps']} steps of {training['batch_size']} samples; training seeds {settings.seeds}; unseen "
        f"scenes of evaluation seed {settings.evaluation_seed}, the same in every row"
    )
    keep("language", machine.describe(machine.cores) | result, f"{title}\n\n{tables(result)}")
    print(tables(result) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    start(main, Settings, __doc__)
