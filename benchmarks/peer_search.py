"""Learning rate and prediction type of TinyVLA and of LeRobot's policies, searched with the same small budget for each.

    uv run python -m benchmarks.peer_search                  # hours; the same command goes on after a stop
    uv run python -m benchmarks.peer_search minutes=2 'policies=[tinyvla,diffusion]' 'rates=[3e-4,1e-3]'

A cell is one training of `preset=cpu` with one learning rate and, where the policy has one, one prediction type: the
noise (`epsilon`) or the clean chunk (`sample`). All cells of all policies train for `minutes` of this machine: a
policy's speed is measured once, alone, and turned into steps. Everything else, batch sizes too, is the preset's. The
seed is not that of the comparisons, which so report episodes that nothing was chosen on. Finished cells are never run
again.

Writes results/peer_search.json and .md. The last line is one JSON object: the best cell of every policy.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from benchmarks.harness import FIGURES, POLICIES, Study, StudySettings, prepare_data, run_cells
from benchmarks.machine import Machine, keep, markdown, success
from benchmarks.settings import setting, start

RATES = [1e-4, 3e-4, 1e-3, 3e-3]
PREDICTIONS = ["epsilon", "sample"]
# Setting of the prediction type, by policy; the others predict actions or velocities only.
PREDICTION_SETTINGS = {
    "tinyvla": "decoder.prediction_type",
    "diffusion": "policy.prediction_type",
    "multi_task_dit": "policy.prediction_type",
}
# Settings that have the learning rate: policy.optimizer_lr, and those that a preset for a CPU gives the same value.
MORE_RATES = {"act": ["policy.optimizer_lr_backbone"]}


class Choice(NamedTuple):
    """Values of a cell. prediction: None where the policy has no choice."""

    policy: str
    rate: float
    prediction: str | None = None

    @property
    def overrides(self) -> list[str]:
        """Settings of train.py."""
        rates = ["policy.optimizer_lr", *MORE_RATES.get(self.policy, [])]
        chosen = [f"{name}={self.rate}" for name in rates]
        if self.prediction is not None:
            chosen.append(f"{PREDICTION_SETTINGS[self.policy]}={self.prediction}")
        return chosen

    @property
    def name(self) -> str:
        return " ".join(str(value) for value in self if value is not None)


@dataclass
class Settings(StudySettings):
    """Settings of the command line."""

    policies: list[str] = setting(POLICIES, "choices of policy of train.py", POLICIES)
    rates: list[float] = setting(RATES, "learning rates, the same for every policy")
    predictions: list[str] = setting(PREDICTIONS, "prediction types, of the policies that have one", PREDICTIONS)
    minutes: float = setting(6, "training time of every cell")
    seed: int = setting(1, "seed of data, training and evaluation; the comparisons have 0")
    tasks: list[str] = setting(["default"], "tasks and suites")
    demos: int = setting(50, "demonstrations per task")


def grid(policy: str, rates: Sequence[float], predictions: Sequence[str]) -> list[Choice]:
    """Cells of a policy."""
    types = predictions if policy in PREDICTION_SETTINGS else [None]
    return [Choice(policy, rate, prediction) for prediction in types for rate in rates]


def values_of_preset(policy: str) -> dict[str, Any]:
    """Learning rate, prediction type and batch size of `preset=cpu`."""
    from omegaconf import OmegaConf

    from configs.composing import load_config

    cfg = load_config("train", [f"policy={policy}", "preset=cpu"])
    name = PREDICTION_SETTINGS.get(policy)
    prediction = None if name is None else OmegaConf.select(cfg, name)
    return {"rate": cfg.policy.optimizer_lr, "prediction": prediction, "batch_size": cfg.trainer.batch_size}


def best_of(figures: Mapping[Choice, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Choice with the most successes, by policy; the first of several."""
    best: dict[str, Choice] = {}
    for choice, counts in figures.items():
        leader = best.setdefault(choice.policy, choice)
        if counts["successes"] > figures[leader]["successes"]:
            best[choice.policy] = choice
    return {policy: choice._asdict() | dict(figures[choice]) for policy, choice in best.items()}


def table(figures: Mapping[Choice, Mapping[str, Any]]) -> str:
    """Markdown with a row per policy and prediction type, a column per learning rate."""
    rows: dict[tuple[str, str | None], dict[str, Any]] = {}
    for choice, counts in figures.items():
        first = {"policy": choice.policy, "prediction": choice.prediction or ""}
        row = rows.setdefault((choice.policy, choice.prediction), first | {"steps": counts["steps"]})
        row[f"{choice.rate:g}"] = success(counts)
    rates = dict.fromkeys(f"{choice.rate:g}" for choice in figures)
    titles = {name: name for name in ("policy", "prediction", "steps")} | {rate: f"rate {rate}" for rate in rates}
    return markdown(list(rows.values()), titles)


def main(settings: Settings) -> None:
    machine = Machine()
    common = ["preset=cpu", f"env.tasks=[{','.join(settings.tasks)}]", f"episodes={settings.demos}"]
    study = Study(settings, [*common, "trainer.processes=1"])  # `jobs` trainings share the cores
    prepare_data(study.common)
    steps = {}
    for policy in settings.policies:
        speed = study.speed(policy)
        steps[policy] = max(1, round(60 * settings.minutes * speed["samples_per_s"] / speed["batch_size"]))
    choices = [c for policy in settings.policies for c in grid(policy, settings.rates, settings.predictions)]
    cells = {choice: study.cell(choice.policy, steps[choice.policy], *choice.overrides) for choice in choices}
    run_cells(list(cells.values()), settings.jobs)
    figures = {
        choice: {"steps": steps[choice.policy]} | {key: value for key, value in cell.run().items() if key in FIGURES}
        for choice, cell in cells.items()
    }

    best, presets = best_of(figures), {policy: values_of_preset(policy) for policy in settings.policies}
    text = (
        f"{machine.title(study.threads)}; {settings.minutes:g} minutes of training per cell; {settings.demos} "
        f"demonstrations and {settings.episodes} unseen episodes per task; one training seed ({settings.seed})\n\n"
        f"{table(figures)}"
    )
    rows = {choice.name: choice._asdict() | counts for choice, counts in figures.items()}
    result = machine.describe(study.threads) | {"setting": study.conditions, "presets": presets, "cells": rows}
    keep("peer_search", result | {"best": best}, text)
    print(text + "\n")
    print(json.dumps(best))


if __name__ == "__main__":
    start(main, Settings, __doc__)
