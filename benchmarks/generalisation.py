"""Success of policies under every shift of envs.shifts, on the same unseen seeds: a heat map with example frames.

    uv run python -m benchmarks.generalisation checkpoints=[plain=outputs/<run>,randomised=outputs/<run>,expert]
    uv run python -m benchmarks.generalisation checkpoints=[outputs/<run>] shifts=[lighting] severities=[1,3]

A checkpoint is a run folder or a pretrained_model folder, as `name=folder` where the folder's name does not say enough.
The environment is that of the run's config.yaml. `expert` in place of a checkpoint adds the scripted expert under the
shifts that change the physics: where it fails, a policy's failure means nothing. Finished cells are kept in
cells.json of `out`: the same command resumes, and one with more cells plays only the new ones. Writes
results/generalisation.json and .md; the last line is one JSON object.
"""

import hashlib
import json
import shlex
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from omegaconf import OmegaConf
from tqdm import tqdm

from benchmarks.heat_map import UNSHIFTED, markdown, write_heat_map
from benchmarks.machine import Machine, keep, versions
from benchmarks.settings import required, setting, start
from configs.composing import as_dict, load_config
from envs import decode_env, make_env, resolve_tasks
from envs.contract import EnvConfig
from envs.evaluation import EvaluationOptions, Job, decode_env_of_policy, evaluate, summarise
from envs.rollout import Rollout
from envs.seeds import episode_seed
from envs.shifts import AXES, PHYSICAL, SEVERITIES, with_shift
from envs.shifts.examples import example_frames
from envs.workers import count_workers, worker_pool
from policies import find_checkpoint
from tinyvla.errors import UserError
from tinyvla.files import write_whole

_FIGURES = ("success_rate", "successes", "episodes", "ci95", "episode_length", "ms_per_action", "tasks")
EXPERT = "expert"


class Row(NamedTuple):
    """A policy of the map, or without a checkpoint the expert. weights: fingerprint of its weights."""

    name: str
    checkpoint: Path | None
    env_cfg: EnvConfig
    weights: str


def read_row(argument: str, changes: list[str]) -> Row:
    """Row from `name=folder` or `folder`, in its run's environment with `changes` to that."""
    name, _, folder = argument.rpartition("=")
    if folder == EXPERT:
        env = load_config("collect").env
        env_cfg = decode_env(as_dict(OmegaConf.merge(env, OmegaConf.from_dotlist(changes))))
        return Row(name or EXPERT, None, env_cfg, EXPERT)
    checkpoint = find_checkpoint(Path(folder))
    run = next(
        (parent for parent in (Path(folder), *checkpoint.parents[:3]) if (parent / "config.yaml").exists()), None
    )
    env = OmegaConf.load(run / "config.yaml").env if run else load_config("evaluate", ["checkpoint=x"]).env
    env_cfg = decode_env_of_policy(as_dict(OmegaConf.merge(env, OmegaConf.from_dotlist(changes))), checkpoint)
    weights = hashlib.sha256((checkpoint / "model.safetensors").read_bytes()).hexdigest()[:12]
    return Row(name or (run or Path(folder)).name, checkpoint, env_cfg, weights)


def play_expert(env_cfg: EnvConfig, task: str, seeds: list[int]) -> list[Rollout]:
    """Episodes of the scripted expert in a task."""
    env: Any = make_env(replace(env_cfg, cameras=env_cfg.cameras[:1], image_size=8), task)
    rollouts = []
    for seed in seeds:
        env.reset(seed=seed)
        success = truncated = False
        steps = 0
        while not success and not truncated:
            _, success, truncated, _ = env.apply(env.expert_action())
            steps += 1
        rollouts.append(Rollout(seed, success, steps, np.zeros(1)))
    env.close()
    return rollouts


def evaluate_expert(env_cfg: EnvConfig, episodes: int, seed: int, workers: int | str) -> dict[str, Any]:
    """Figures of the expert, as `evaluate` returns those of a policy on the same seeds."""
    tasks = resolve_tasks(env_cfg)
    seeds = [episode_seed("evaluation", seed, episode) for episode in range(episodes)]
    results: dict[Job, Rollout] = {}
    with worker_pool(min(count_workers(workers), len(tasks))) as pool:
        results_by_task = pool.map(play_expert, [env_cfg] * len(tasks), tasks, [seeds] * len(tasks))
        for task, rollouts in zip(
            tasks, tqdm(results_by_task, total=len(tasks), desc="expert", unit="task"), strict=True
        ):
            results |= {Job(task, task, episode): rollout for episode, rollout in enumerate(rollouts)}
    return summarise(results)


class Cells:
    """Finished cells, in a file that is written whole or not at all."""

    def __init__(self, file: Path):
        self._file = file
        self._cells: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}

    @staticmethod
    def key(row: Row, axis: str, severity: int, setting: dict[str, Any]) -> str:
        """Identity of a cell: everything that its figures depend on."""
        defaults = {field.name for field in row.env_cfg.own_fields()} - row.env_cfg.own_settings().keys()
        left_out = {"noise", "shift", *defaults}
        env_cfg = {key: value for key, value in asdict(row.env_cfg).items() if key not in left_out}
        if not env_cfg["linger"]:
            del env_cfg["linger"]
        return json.dumps([axis, severity, row.weights, env_cfg, setting], sort_keys=True)

    def get(self, key: str) -> dict[str, Any] | None:
        return self._cells.get(key)

    def add(self, key: str, figures: dict[str, Any]) -> None:
        self._cells[key] = figures
        write_whole(self._file, json.dumps(self._cells, indent=1))


@dataclass
class Settings:
    """Settings of the command line."""

    checkpoints: list[str] = required("rows of the map: [name=]folder, or expert")
    shifts: list[str] = setting(list(AXES), "axes")
    severities: list[int] = setting(list(SEVERITIES), "severities")
    episodes: int = setting(10, "episodes per task in a cell")
    tasks: list[str] = setting([], "tasks and suites; none: those of the first run")
    env: list[str] = setting([], "changes to env, such as [max_steps=300]")
    seed: int = setting(0, "seed of the evaluation")
    workers: int | str = setting("auto", "worker processes; auto: one per core")
    device: str = setting("auto", "device of the policies")
    out: Path = setting(Path("outputs/generalisation"), "folder of the map and of finished cells")


def main(settings: Settings) -> None:
    """Play the missing cells, then write the map."""
    changes = settings.env + ([f"tasks=[{','.join(settings.tasks)}]"] if settings.tasks else [])
    rows = [read_row(argument, changes) for argument in settings.checkpoints]
    if len({row.name for row in rows}) < len(rows):
        raise UserError("two checkpoints have the same name; write name=folder")
    tasks = resolve_tasks(rows[0].env_cfg)
    if any(resolve_tasks(row.env_cfg) != tasks for row in rows):
        raise UserError("the checkpoints were trained on different tasks; choose with tasks=[...]")
    columns = [UNSHIFTED, *((axis, severity) for axis in settings.shifts for severity in settings.severities)]
    for axis, severity in columns[1:]:
        with_shift(EnvConfig(""), [axis], severity)  # mistakes show before anything is played
    conditions = {"tasks": tasks, "episodes": settings.episodes, "seed": settings.seed}
    options = EvaluationOptions(settings.episodes, seed=settings.seed, workers=settings.workers, device=settings.device)
    finished = Cells(settings.out / "cells.json")
    cells: dict[str, dict[tuple[str, int], dict[str, Any]]] = {row.name: {} for row in rows}
    for number, (row, column) in enumerate(((row, column) for column in columns for row in rows), 1):
        if row.checkpoint is None and column[0] not in ("none", *PHYSICAL):
            continue
        key = finished.key(row, *column, conditions)
        if (figures := finished.get(key)) is None:
            print(f"{number} of {len(rows) * len(columns)}: {row.name}, {column[0]} {column[1] or ''}", file=sys.stderr)
            env_cfg = row.env_cfg if column == UNSHIFTED else with_shift(row.env_cfg, [column[0]], column[1])
            result = (
                evaluate(row.checkpoint, env_cfg, options)
                if row.checkpoint
                else evaluate_expert(env_cfg, settings.episodes, settings.seed, settings.workers)
            )
            figures = {name: result[name] for name in _FIGURES}
            finished.add(key, figures)
        cells[row.name][column] = figures

    frames = example_frames(rows[0].env_cfg, tasks[0], 0, settings.shifts, settings.severities)
    machine = Machine().summary
    packages = versions("torch", "lerobot", "mujoco", "metaworld")
    facts = {
        "tasks": ", ".join(tasks),
        "seeds": f"evaluation split, seed {settings.seed}, {settings.episodes} episodes per task",
        **{row.name: f"{row.checkpoint} (weights {row.weights})" for row in rows if row.checkpoint},
        "machine": machine,
        **packages,
    }
    command = shlex.join(["uv", "run", "python", "-m", "benchmarks.generalisation", *sys.argv[1:]])
    pages = write_heat_map(settings.out, cells, frames, facts, tasks[0], command)
    print(f"{markdown(cells)}\n")
    print("\n".join(map(str, pages)) + "\n")
    flat = [
        {"policy": policy, "shift": axis, "severity": severity} | figures
        for policy, row_cells in cells.items()
        for (axis, severity), figures in row_cells.items()
    ]
    result = {"cells": flat, "machine": machine, "versions": packages} | conditions
    keep("generalisation", result, f"{machine}; {facts['tasks']}; {facts['seeds']}\n\n{markdown(cells)}")
    print(json.dumps(result))


if __name__ == "__main__":
    start(main, Settings, __doc__)
