"""Closed-loop evaluation: many episodes in parallel worker processes, and what they amount to."""

import json
import platform
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.stats import binomtest
from tqdm import tqdm

from policies import PolicyRunner, find_checkpoint
from policies.model_card import add_evaluation
from tinyvla.errors import UserError
from tinyvla.files import write_whole

from .contract import EnvConfig
from .registry import instruction_of, make_env, resolve_tasks
from .rollout import Rollout, roll_out
from .seeds import EpisodeSplit, episode_seed
from .workers import LOCAL, count_workers, send_folder, worker_pool


class Setting(NamedTuple):
    """What the episodes of an evaluation have in common.

    checkpoint: a policy's folder. env_cfg: the `env` configuration. split, seed: which seeds. device: what the policy
    computes on, "auto" for the best there is. runner: how it is run, the further arguments of
    `PolicyRunner.from_checkpoint`.
    """

    checkpoint: Path
    env_cfg: EnvConfig
    split: EpisodeSplit
    seed: int
    device: str
    runner: Mapping[str, Any]


class Job(NamedTuple):
    """One episode: whose environment, whose instruction the policy is given, and which of the split's episodes."""

    task: str
    told: str
    episode: int


def evaluation_jobs(tasks: list[str], episodes: int, wrong_instructions: int = 0) -> list[Job]:
    """`episodes` episodes of every task, then `wrong_instructions` of each told to do the other tasks in turn.

    Raises UserError if there would be none.
    """
    if episodes < 1:
        raise UserError(f"{episodes} episodes a task tell nothing; ask for one or more")
    right = [Job(task, task, episode) for task in tasks for episode in range(episodes)]
    wrong = []
    for task in tasks:
        others = [other for other in tasks if other != task]
        if others:
            wrong += [Job(task, others[i % len(others)], i // len(others)) for i in range(wrong_instructions)]
    return right + wrong


def run_jobs(
    pool: Executor, policy: Any, setting: Setting, jobs: list[Job], videos: Path | None = None
) -> dict[Job, Rollout]:
    """Run episodes in the worker processes of a pool, each with a policy and a GL context of its own.

    What comes out does not depend on the number of workers, nor on where they are. `policy` is the setting's checkpoint
    as `send_folder` sent it to the pool, `videos` a folder for an MP4 of every episode.

    Raises UserError if the policy does not fit the environment.
    """
    results: dict[Job, Rollout] = {}
    title = "filming" if videos else setting.split
    with tqdm(total=len(jobs), desc=title, unit="episode") as bar:
        futures = {pool.submit(_run_job, setting, policy, job, videos is not None): job for job in jobs}
        for future in as_completed(futures):
            job = futures.pop(future)  # with the film in it
            results[job], film = future.result()
            if videos and film:
                write_whole(videos / video_name(job), film)
            bar.update()
            right = [rollout.success for job, rollout in results.items() if job.task == job.told]
            bar.set_postfix(success=f"{sum(right)}/{len(right)}")
    return {job: results[job] for job in jobs}


def evaluate(
    checkpoint: Path,
    env_cfg: EnvConfig,
    episodes: int,
    *,
    split: EpisodeSplit = "evaluation",
    seed: int = 0,
    workers: int | str = "auto",
    launcher: Mapping[str, Any] = LOCAL,
    device: str = "auto",
    runner: Mapping[str, Any] | None = None,
    wrong_instructions: int = 0,
    run_dir: Path | None = None,
    videos: int = 0,
) -> dict[str, Any]:
    """Measure a policy's closed-loop success on every task of `env_cfg`; see `summarise` for what comes back.

    Args:
        checkpoint: a policy's folder, or a run's.
        episodes: of every task, on seeds of `split` that no other split has.
        launcher: where worker processes run, the `launcher` configuration.
        runner: how the policy is run, see `Setting`.
        wrong_instructions: further episodes of every task in which the policy is told to do one of the other tasks.
        run_dir: folder that gets eval.json and videos; None: nothing is written.
        videos: how many successes and failures of every task to keep as MP4.

    Raises UserError if the checkpoint is damaged or does not fit the environment.
    """
    if launcher["name"] == "ray":  # this machine's devices say nothing about the nodes'
        device = "auto" if launcher["gpus"] else "cpu"
    setting = Setting(find_checkpoint(checkpoint), env_cfg, split, seed, device, dict(runner or {}))
    jobs = evaluation_jobs(resolve_tasks(env_cfg), episodes, wrong_instructions)
    count = min(count_workers(workers, launcher), len(jobs))
    with worker_pool(count, launcher) as pool:
        policy = send_folder(pool, setting.checkpoint)
        results = run_jobs(pool, policy, setting, jobs)
        if run_dir and videos:
            # Drawing every frame of every episode would take longer than playing it: the chosen few are played again.
            run_jobs(pool, policy, setting, telling(results, videos), run_dir / "videos")
            keep_videos(run_dir / "videos", results, videos)
    result = summarise(results) | {
        "split": split,
        "seed": seed,
        "shift": env_cfg.shift and {"names": list(env_cfg.shift.names), "severity": env_cfg.shift.severity},
        "checkpoint": str(setting.checkpoint),
        "machine": f"{platform.processor() or platform.machine()}, {count_workers('auto')} cores, {count} workers"
        + (" of a Ray cluster" if launcher["name"] == "ray" else ""),
    }
    if run_dir:
        write_whole(run_dir / "eval.json", json.dumps(result, indent=1))
        add_evaluation(setting.checkpoint, env_cfg["name"], result)
    return result


def validator(env_cfg: EnvConfig, episodes: int, **options: Any) -> Callable[[Path], dict[str, float]] | None:
    """A function that scores a policy on validation seeds, as training wants it; None for no episodes.

    options: further arguments of `evaluate`.
    """
    if not episodes:
        return None

    def validate(policy: Path) -> dict[str, float]:
        result = evaluate(policy, env_cfg, episodes, split="validation", **options)
        return {"success_rate": result["success_rate"]} | {
            f"success_rate/{task}": figures["success_rate"] for task, figures in result["tasks"].items()
        }

    return validate


def check_episodes(env_cfg: EnvConfig, episodes: int) -> None:
    """Raise UserError unless the environment has tasks and `episodes` is a number of them, 0 included."""
    evaluation_jobs(resolve_tasks(env_cfg), episodes or 1)


_WORKER: dict[str, Any] = {}  # a worker process's policy, and its last task's environment


def _run_job(setting: Setting, policy: Any, job: Job, film: bool) -> tuple[Rollout, bytes | None]:
    """One episode in a worker, and its MP4 if asked: the worker may have no disk in common with who asks."""
    if _WORKER.get("setting") != (setting, policy):
        torch.set_num_threads(1)
        device = None if setting.device == "auto" else setting.device
        with policy.opened() as checkpoint:
            runner = PolicyRunner.from_checkpoint(checkpoint, device, **setting.runner)
        _WORKER.update(setting=(setting, policy), runner=runner, task=None)
    if _WORKER["task"] != job.task:
        if env := _WORKER.pop("env", None):
            env.close()
        env = make_env(setting.env_cfg, job.task)
        _WORKER["runner"].check(env.observation_space, env.action_space)
        _WORKER.update(task=job.task, env=env)
    env_seed = episode_seed(setting.split, setting.seed, job.episode)
    instruction = None if job.told == job.task else instruction_of(setting.env_cfg, job.told, env_seed)
    with tempfile.TemporaryDirectory() as folder:
        video = Path(folder) / "episode.mp4" if film else None
        rollout = roll_out(_WORKER["env"], _WORKER["runner"], env_seed, instruction, video)
        return rollout, video.read_bytes() if video else None


def video_name(job: Job) -> str:
    """File name of an episode's video."""
    told = "" if job.told == job.task else f"-told-{job.told}"
    return f"{job.task}{told}-{job.episode:03d}.mp4"


def summarise(results: Mapping[Job, Rollout]) -> dict[str, Any]:
    """What eval.json holds: success with Wilson's 95% interval, episode length and milliseconds an action.

    The same for every task under `tasks`, with each episode's seed, outcome (1 is success) and length; under
    `wrong_instructions`, by task and by the task whose instruction was given instead, how often the environment's own
    task was done all the same.
    """
    right = {job: rollout for job, rollout in results.items() if job.task == job.told}
    tasks: dict[str, Any] = {}
    for task in dict.fromkeys(job.task for job in right):
        rollouts = [rollout for job, rollout in right.items() if job.task == task]
        tasks[task] = _figures(rollouts) | {
            "seeds": [rollout.seed for rollout in rollouts],
            "outcomes": [int(rollout.success) for rollout in rollouts],
            "lengths": [rollout.steps for rollout in rollouts],
        }
    wrong: dict[str, dict[str, dict[str, int]]] = {}
    for job, rollout in results.items():
        if job.task != job.told:
            cell = wrong.setdefault(job.task, {}).setdefault(job.told, {"successes": 0, "episodes": 0})
            cell["successes"] += rollout.success
            cell["episodes"] += 1
    return _figures(list(right.values())) | {"tasks": tasks} | ({"wrong_instructions": wrong} if wrong else {})


def _figures(rollouts: list[Rollout]) -> dict[str, Any]:
    successes, count = sum(rollout.success for rollout in rollouts), len(rollouts)
    interval = binomtest(successes, count).proportion_ci(0.95, method="wilson")
    times = np.concatenate([rollout.action_ms for rollout in rollouts])
    return {
        "success_rate": successes / count,
        "successes": successes,
        "episodes": count,
        "ci95": [round(float(interval.low), 4), round(float(interval.high), 4)],
        "episode_length": round(float(np.mean([rollout.steps for rollout in rollouts])), 1),
        "ms_per_action": round(float(times.mean()), 3),
        "ms_per_action_p95": round(float(np.percentile(times, 95)), 3),
    }


def telling(results: Mapping[Job, Rollout], each: int) -> list[Job]:
    """Of every task's episodes the first `each` successes and failures."""
    chosen = []
    for task in dict.fromkeys(job.task for job in results):
        for success in (True, False):
            ended_so = [job for job, rollout in results.items() if job.task == task and rollout.success == success]
            chosen += ended_so[:each]
    return chosen


def keep_videos(folder: Path, results: Mapping[Job, Rollout], each: int) -> list[Path]:
    """Keep the videos of the `telling` episodes and no others, named by how they ended."""
    kept = []
    for job in telling(results, each):
        video = folder / video_name(job)
        ending = "success" if results[job].success else "failure"
        kept.append(video.replace(video.with_stem(f"{video.stem}-{ending}")))
    for video in folder.glob("*.mp4"):
        if video not in kept:
            video.unlink()
    return kept
