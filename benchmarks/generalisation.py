"""Success of policies under every shift of envs.shifts, on the same unseen seeds: a heat map with example frames.

    uv run benchmarks/generalisation.py plain=outputs/<run> randomised=outputs/<run>
    uv run benchmarks/generalisation.py outputs/<run> --shifts lighting camera_pose --severities 1 3 --episodes 50

A checkpoint is a run folder or a pretrained_model folder, with a name before it where the folder's would not do. The
environment is that of the run's config.yaml. `expert` in place of a checkpoint is a row of the scripted expert under
the shifts that change the physics: where it fails, a policy's failure tells nothing. Finished cells are kept in
cells.json of --out, so that the same command goes on where it stopped, and one that asks for more plays only what is
new. The last line is one JSON object.
"""

import argparse
import hashlib
import importlib.metadata
import json
import shlex
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from omegaconf import OmegaConf
from tqdm import tqdm

from benchmarks.machine import Machine
from configs.composing import as_dict, load_config
from envs import decode_env, make_env, resolve_tasks
from envs.contract import EnvConfig
from envs.evaluation import EvaluationOptions, Job, evaluate, summarise
from envs.report.heat_map import UNSHIFTED, markdown, write_heat_map
from envs.rollout import Rollout
from envs.seeds import episode_seed
from envs.shifts import AXES, PHYSICAL, SEVERITIES, with_shift
from envs.shifts.examples import example_frames
from envs.workers import count_workers, worker_pool
from policies import find_checkpoint
from tinyvla.errors import UserError
from tinyvla.files import write_whole

_KEPT = ("success_rate", "successes", "episodes", "ci95", "episode_length", "ms_per_action", "tasks")


EXPERT = "expert"


class Row(NamedTuple):
    """A policy of the map, or without a checkpoint the expert. weights: fingerprint of what it has learnt."""

    name: str
    checkpoint: Path | None
    env_cfg: EnvConfig
    weights: str


def read_row(argument: str, changes: list[str]) -> Row:
    """A row from `name=folder` or `folder`, in its run's environment with `changes` to that."""
    name, _, folder = argument.rpartition("=")
    if folder == EXPERT:
        env = load_config("evaluate", ["checkpoint=x"]).env
        env_cfg = decode_env(as_dict(OmegaConf.merge(env, OmegaConf.from_dotlist(changes))))
        return Row(name or EXPERT, None, env_cfg, EXPERT)
    checkpoint = find_checkpoint(Path(folder))
    run = next(
        (parent for parent in (Path(folder), *checkpoint.parents[:3]) if (parent / "config.yaml").exists()), None
    )
    env = OmegaConf.load(run / "config.yaml").env if run else load_config("evaluate", ["checkpoint=x"]).env
    env_cfg = decode_env(as_dict(OmegaConf.merge(env, OmegaConf.from_dotlist(changes))))
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
    """What `evaluate` returns of a policy, of the expert, on the same seeds."""
    tasks = resolve_tasks(env_cfg)
    seeds = [episode_seed("evaluation", seed, episode) for episode in range(episodes)]
    results: dict[Job, Rollout] = {}
    with worker_pool(min(count_workers(workers), len(tasks))) as pool:
        played = pool.map(play_expert, [env_cfg] * len(tasks), tasks, [seeds] * len(tasks))
        for task, rollouts in zip(tasks, tqdm(played, total=len(tasks), desc="expert", unit="task"), strict=True):
            results |= {Job(task, task, episode): rollout for episode, rollout in enumerate(rollouts)}
    return summarise(results)


class Cells:
    """Finished cells, kept in a file that is never half-written."""

    def __init__(self, file: Path):
        self._file = file
        self._cells: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}

    @staticmethod
    def key(row: Row, axis: str, severity: int, setting: dict[str, Any]) -> str:
        """Tells a cell from any other: what it is of, and all that its figures depend on."""
        env_cfg = {key: value for key, value in asdict(row.env_cfg).items() if key not in ("noise", "shift")}
        if not env_cfg["linger"]:
            del env_cfg["linger"]
        return json.dumps([axis, severity, row.weights, env_cfg, setting], sort_keys=True)

    def get(self, key: str) -> dict[str, Any] | None:
        return self._cells.get(key)

    def add(self, key: str, figures: dict[str, Any]) -> None:
        self._cells[key] = figures
        write_whole(self._file, json.dumps(self._cells, indent=1))


def run(args: argparse.Namespace) -> None:
    """Play what is missing, then write the map of what was asked for."""
    changes = args.env + ([f"tasks=[{','.join(args.tasks)}]"] if args.tasks else [])
    rows = [read_row(argument, changes) for argument in args.checkpoints]
    if len({row.name for row in rows}) < len(rows):
        raise UserError("two checkpoints have the same name; write name=folder")
    tasks = resolve_tasks(rows[0].env_cfg)
    if any(resolve_tasks(row.env_cfg) != tasks for row in rows):
        raise UserError("the checkpoints were trained on different tasks; choose with --tasks")
    columns = [UNSHIFTED, *((axis, severity) for axis in args.shifts for severity in args.severities)]
    for axis, severity in columns[1:]:
        with_shift(EnvConfig(""), [axis], severity)  # mistakes come up before anything is played
    setting = {"tasks": tasks, "episodes": args.episodes, "seed": args.seed}
    options = EvaluationOptions(args.episodes, seed=args.seed, workers=args.workers, device=args.device)
    kept = Cells(args.out / "cells.json")
    cells: dict[str, dict[tuple[str, int], dict[str, Any]]] = {row.name: {} for row in rows}
    for number, (row, column) in enumerate(((row, column) for column in columns for row in rows), 1):
        if row.checkpoint is None and column[0] not in ("none", *PHYSICAL):
            continue
        key = kept.key(row, *column, setting)
        if (figures := kept.get(key)) is None:
            print(f"{number} of {len(rows) * len(columns)}: {row.name}, {column[0]} {column[1] or ''}", file=sys.stderr)
            env_cfg = row.env_cfg if column == UNSHIFTED else with_shift(row.env_cfg, [column[0]], column[1])
            result = (
                evaluate(row.checkpoint, env_cfg, options)
                if row.checkpoint
                else evaluate_expert(env_cfg, args.episodes, args.seed, args.workers)
            )
            figures = {name: result[name] for name in _KEPT}
            kept.add(key, figures)
        cells[row.name][column] = figures

    frames = example_frames(rows[0].env_cfg, tasks[0], 0, args.shifts, args.severities)
    machine = Machine().summary
    versions = {name: importlib.metadata.version(name) for name in ("torch", "lerobot", "mujoco", "metaworld")}
    facts = {
        "tasks": ", ".join(tasks),
        "seeds": f"evaluation split, seed {args.seed}, {args.episodes} episodes a task",
        **{row.name: f"{row.checkpoint} (weights {row.weights})" for row in rows if row.checkpoint},
        "machine": machine,
        **versions,
    }
    command = shlex.join(["uv", "run", "benchmarks/generalisation.py", *sys.argv[1:]])
    pages = write_heat_map(args.out, cells, frames, facts, tasks[0], command)
    print(f"{markdown(cells)}\n")
    print("\n".join(map(str, pages)) + "\n")
    flat = [
        {"policy": policy, "shift": axis, "severity": severity} | figures
        for policy, row_cells in cells.items()
        for (axis, severity), figures in row_cells.items()
    ]
    print(json.dumps({"cells": flat, "machine": machine, "versions": versions} | setting))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="+", metavar="[name=]folder", help="policies, the rows of the map")
    parser.add_argument("--shifts", nargs="+", default=list(AXES), help="axes (default: all of %(default)s)")
    parser.add_argument("--severities", nargs="+", type=int, default=list(SEVERITIES), help="(default: %(default)s)")
    parser.add_argument("--episodes", type=int, default=10, help="of each task in a cell (default: %(default)s)")
    parser.add_argument("--tasks", nargs="+", help="tasks and suites (default: those of the first run)")
    parser.add_argument("--env", nargs="+", default=[], metavar="KEY=VALUE", help="changes to env, as max_steps=300")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", default="auto", help="processes (default: one a core)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=Path("outputs/generalisation"), help="(default: %(default)s)")
    try:
        run(parser.parse_args())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
