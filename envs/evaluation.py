"""Closed-loop evaluation of a policy: many episodes in parallel worker processes."""

import hashlib
import json
import platform
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, as_completed
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from policies import Runner, RunnerConfig, find_checkpoint, load_pipelines, load_policy
from policies.asynchronous import check_latency
from policies.image_size import step_of
from policies.model_card import CARD, add_evaluation
from policies.runner import check_fit
from policies.runtimes import check_sampler
from tinyvla.decoding import decode_section
from tinyvla.errors import UserError, one_line
from tinyvla.files import check_writable, write_whole
from tinyvla.machine import check_workers, count_cores
from tinyvla.ranges import check_range
from tinyvla.training.device import check_device
from tinyvla.untrusted import read_json_object

from .contract import IMAGES, EnvConfig, as_arguments
from .episode_journal import EpisodeJournal
from .eval_results import POLICY, Job, summarise
from .launcher import LOCAL, LauncherConfig
from .registry import check_env_config, decode_env, instruction_of, make_env, resolve_tasks, spaces_of
from .report.text import describe
from .rollout import Rollout, roll_out
from .seeds import EPISODES_PER_SEED, SEEDS, EpisodeSplit, episode_seed
from .trained_env import describe_differences, trained_env
from .workers import count_workers, send_folder, worker_pool


@dataclass(frozen=True)
class EvaluationOptions:
    """Options of an evaluation: the settings of evaluate.py, and the section `eval` of train.py.

    Args:
        episodes: per task, on seeds of `split` that no other split has.
        split, seed: select the episodes' seeds.
        workers: processes that play episodes; "auto": one per core.
        launcher: where worker processes run.
        device: device of the policy; "auto": the best available.
        runner: how the policy is run: keyword arguments of `policies.load_policy`.
        wrong_instructions: further episodes per task, with the instruction of another task.
        instruction: sentence that the policy is given in every episode; None: the task's own.
        videos: number of successes, and of failures, per task to record as MP4.
    """

    episodes: int = 20
    split: EpisodeSplit = "evaluation"
    seed: int = 0
    workers: int | str | None = "auto"
    launcher: LauncherConfig = LOCAL
    device: str = "auto"
    runner: dict[str, Any] = field(default_factory=dict)
    wrong_instructions: int = 0
    instruction: str | None = None
    videos: int = 0

    def __post_init__(self) -> None:
        check_range(self, "episodes", "wrong_instructions", "videos", low=0, high=EPISODES_PER_SEED)
        check_range(self, "seed", low=0, high=SEEDS - 1)
        check_workers(self.workers)
        decode_section(RunnerConfig, self.runner, "runner")

    @classmethod
    def from_section(cls, section: Mapping[str, Any], **changes: Any) -> "EvaluationOptions":
        """Options from a configuration section, which may hold other settings too. changes: options set in code."""
        names = {option.name for option in fields(cls)}
        return decode_section(cls, {name: section[name] for name in section if name in names} | changes, "eval")


class Setting(NamedTuple):
    """Values that all episodes of an evaluation share.

    checkpoint: folder of the policy. env_cfg: the `env` configuration. split, seed: select the episodes' seeds. device:
    device of the policy, "auto" for the best available. runner: keyword arguments of `policies.load_policy`.
    instruction: a sentence for the policy in place of the task's instruction; None: the task's.
    """

    checkpoint: Path
    env_cfg: EnvConfig
    split: EpisodeSplit
    seed: int
    device: str
    runner: Mapping[str, Any]
    instruction: str | None = None


def evaluation_jobs(tasks: list[str], episodes: int, wrong_instructions: int = 0) -> list[Job]:
    """`episodes` episodes per task, then `wrong_instructions` per task with the other tasks' instructions in turn.

    Raises UserError if there are no episodes.
    """
    if episodes < 1:
        raise UserError(f"{episodes} episodes per task give no success rate; use 1 or more")
    jobs = [Job(task, task, episode) for task in tasks for episode in range(episodes)]
    for task in tasks:
        instructed = [other for other in tasks if other != task]
        if instructed:
            jobs += [
                Job(task, instructed[i % len(instructed)], i // len(instructed)) for i in range(wrong_instructions)
            ]
    return jobs


def run_jobs(
    pool: Executor,
    policy: Any,
    setting: Setting,
    jobs: list[Job],
    videos: Path | None = None,
    note: Callable[[Job, Rollout], None] | None = None,
) -> dict[Job, Rollout]:
    """Play episodes in the worker processes of a pool, each with its own policy and GL context.

    The results do not depend on the number of workers, nor on their machines.

    Args:
        policy: the setting's checkpoint, as `send_folder` returned it.
        videos: folder for an MP4 of each episode; None: no videos.
        note: called with every episode as it is finished.

    Raises UserError if the policy does not fit the environment.
    """
    results: dict[Job, Rollout] = {}
    title = "filming" if videos else setting.split
    with tqdm(total=len(jobs), desc=title, unit="episode") as bar:
        futures = {pool.submit(_run_job, setting, policy, job, videos is not None): job for job in jobs}
        for future in as_completed(futures):
            job = futures.pop(future)  # releases the future, which holds the video
            results[job], film = future.result()
            if videos and film:
                write_whole(videos / video_name(job), film)
            if note:
                note(job, results[job])
            bar.update()
            successes = [rollout.success for job, rollout in results.items() if job.is_own]
            bar.set_postfix(success=f"{sum(successes)}/{len(successes)}")
    return {job: results[job] for job in jobs}


def evaluate(
    policy: Runner | Path | str,
    env: EnvConfig | str,
    options: EvaluationOptions | None = None,
    run_dir: Path | None = None,
    *,
    tasks: Sequence[str] | None = None,
    episodes: int | None = None,
) -> dict[str, Any]:
    """Measure a policy's closed-loop success on every task; returns the content of eval.json.

        result = evaluate("outputs/run", "metaworld", tasks=["drawer-open-v3"], episodes=10)

    Worker processes play the episodes, so a script needs `if __name__ == "__main__":` around the call.

    Args:
        policy: a run's folder, a checkpoint's, or a policy of `policies.load_policy`.
        env: the configuration of the environment, with a shift where it is shifted; or its name, for the cameras, the
            image size and, where the run says it, the tasks and scenes that the policy was trained with.
        options: number of episodes and so on.
        run_dir: folder for eval.json, episodes.jsonl and videos; None: nothing is written. An evaluation that was
            stopped there, even killed, goes on with its finished episodes.
        tasks, episodes: in place of those of `env` and `options`.

    Raises UserError if the checkpoint is damaged or does not fit the environment, or `run_dir` cannot be written. A
    result that cannot be written at the end is printed.
    """
    folder = policy if isinstance(policy, Path | str) else policy.checkpoint
    if folder is None:
        raise UserError("the policy was not loaded from a checkpoint; load it with policies.load_policy")
    checkpoint, options = find_checkpoint(folder), options or EvaluationOptions()
    env_cfg = env if isinstance(env, EnvConfig) else _env_of_policy(checkpoint, env, tasks)
    env_cfg = env_cfg if tasks is None else replace(env_cfg, tasks=list(tasks))
    options = options if episodes is None else replace(options, episodes=episodes)
    device = _device(options)
    setting = Setting(checkpoint, env_cfg, options.split, options.seed, device, options.runner, options.instruction)
    jobs = evaluation_jobs(resolve_tasks(env_cfg), options.episodes, options.wrong_instructions)
    count = min(count_workers(options.workers, options.launcher), len(jobs))
    _check_setting(setting, options.launcher)
    if difference := describe_differences(trained_env(checkpoint, env_cfg.name), env_cfg):
        print(difference, file=sys.stderr)
    if run_dir:
        check_writable(run_dir)
    results = _play(setting, jobs, options, count, run_dir)
    cluster = " of a Ray cluster" if options.launcher.name == "ray" else ""
    result = {"kind": POLICY} | summarise(results)
    result |= {
        "split": options.split,
        "seed": options.seed,
        "instruction": options.instruction,
        "environment": " ".join([env_cfg.name, *as_arguments(env_cfg.own_settings())]),
        "shift": env_cfg.shift and {"names": list(env_cfg.shift.names), "severity": env_cfg.shift.severity},
        "checkpoint": str(checkpoint),
        "machine": f"{platform.processor() or platform.machine()}, {count_cores()} cores, {count} workers{cluster}",
    }
    if run_dir:
        try:
            write_whole(run_dir / "eval.json", json.dumps(result, indent=1))
        except OSError as error:
            print(describe(result))
            raise UserError(
                f"this result could not be written to {run_dir} ({one_line(error.strerror or error)}); make room, "
                "then run the same command again: finished episodes are kept"
            ) from error
        add_evaluation(checkpoint, result["environment"], result)
    return result


def _play(
    setting: Setting, jobs: list[Job], options: EvaluationOptions, workers: int, run_dir: Path | None
) -> dict[Job, Rollout]:
    """Play all episodes that are not in the journal of `run_dir`, then record those that `options.videos` selects."""
    journal = EpisodeJournal(run_dir, _fingerprint(setting)) if run_dir else None
    played = {job: journal.results[job] for job in jobs if job in journal.results} if journal else {}
    if played:
        print(f"{len(played)} of {len(jobs)} episodes are played already", file=sys.stderr)
    with worker_pool(workers, options.launcher) as pool:
        policy = send_folder(pool, setting.checkpoint)
        left = [job for job in jobs if job not in played]
        played |= run_jobs(pool, policy, setting, left, note=journal.add if journal else None)
        results = {job: played[job] for job in jobs}
        if run_dir and options.videos:
            # Rendering every frame of every episode would take longer than playing it: selected episodes are replayed.
            run_jobs(pool, policy, setting, jobs_to_film(results, options.videos), run_dir / "videos")
            keep_videos(run_dir / "videos", results, options.videos)
    return results


def _check_setting(setting: Setting, launcher: LauncherConfig) -> None:
    """Raise UserError for what a worker would find out, as far as it shows without weights and simulator.

    That is a policy that cannot be loaded, does not fit the environment, or cannot be run as the setting says.
    """
    device = "cpu" if launcher.name == "ray" else setting.device  # the nodes' devices are theirs to check
    check_device(device)
    config, preprocessor, _ = load_pipelines(setting.checkpoint, None if device == "auto" else device)
    runner = decode_section(RunnerConfig, setting.runner, "runner")
    check_sampler(config, runner)
    if runner.asynchronous:
        check_latency(config, runner.latency_steps)
    check_env_config(setting.env_cfg)
    if spaces := spaces_of(setting.env_cfg):
        check_fit(config, *spaces, step_of(preprocessor))


def _fingerprint(setting: Setting) -> str:
    """Hash of all that episodes depend on: the checkpoint's files, and the setting but the device.

    Not its card, nor hidden files: a kill while the card is written leaves one.
    """
    digest = hashlib.sha256(repr(setting._replace(checkpoint=Path(), device="", runner=dict(setting.runner))).encode())
    for file in sorted(setting.checkpoint.rglob("*")):
        if file.is_file() and file.name != CARD and not file.name.startswith("."):
            digest.update(str(file.relative_to(setting.checkpoint)).encode())
            with file.open("rb") as content:
                digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()


def decode_env_of_policy(section: Mapping[str, Any], policy: Path | str) -> EnvConfig:
    """Environment of an `env` section, in which cameras or an image size of None are those of a policy.

    Args:
        policy: a run's folder, or a checkpoint's. Raises UserError if there is none, or the section does not fit.
    """
    if missing := [name for name in ("cameras", "image_size") if section.get(name) is None]:
        features = read_json_object(find_checkpoint(policy) / "config.json")["input_features"]
        images = {key: feature["shape"] for key, feature in features.items() if key.startswith(IMAGES)}
        cameras = [key.removeprefix(IMAGES) for key in images]
        view = {"cameras": cameras, "image_size": next(iter(images.values()))[1]}
        section = dict(section) | {name: view[name] for name in missing}
    return decode_env(section)


def _env_of_policy(checkpoint: Path, name: str, tasks: Sequence[str] | None) -> EnvConfig:
    """Environment of a name, with cameras, image size and, where its run is known, tasks and scenes of a policy."""
    section: dict[str, Any] = {"name": name}
    if trained := trained_env(checkpoint, name):
        section |= {"tasks": trained.tasks} | trained.own_settings()
    return decode_env_of_policy(section if tasks is None else section | {"tasks": list(tasks)}, checkpoint)


def validator(
    env_cfg: EnvConfig, options: EvaluationOptions, episodes: int
) -> Callable[[Path], dict[str, float]] | None:
    """Function that scores a checkpoint in `episodes` validation episodes per task, for the training loop.

    None without episodes. options: those of the evaluation after training.
    """
    if not episodes:
        return None
    options = replace(options, episodes=episodes, split="validation", wrong_instructions=0, videos=0)

    def validate(checkpoint: Path) -> dict[str, float]:
        result = evaluate(checkpoint, env_cfg, options)
        return {"success_rate": result["success_rate"]} | {
            f"success_rate/{task}": figures["success_rate"] for task, figures in result["tasks"].items()
        }

    return validate


def check_episodes(env_cfg: EnvConfig, episodes: int) -> None:
    """Raise UserError unless the environment has tasks and `episodes` is 0 or more."""
    evaluation_jobs(resolve_tasks(env_cfg), episodes or 1)


def _device(options: EvaluationOptions) -> str:
    if options.launcher.name != "ray":
        return options.device
    return "auto" if options.launcher.gpus else "cpu"  # the nodes may have other devices than this machine


_WORKER: dict[str, Any] = {}  # a worker process's policy, and the environment of its last task


def _run_job(setting: Setting, policy: Any, job: Job, film: bool) -> tuple[Rollout, bytes | None]:
    """One episode in a worker, and its MP4 if `film`: as bytes, since the worker may not share the caller's disk."""
    if _WORKER.get("setting") != (setting, policy):
        torch.set_num_threads(1)
        device = None if setting.device == "auto" else setting.device
        with policy.opened() as checkpoint:
            runner = load_policy(checkpoint, device, **setting.runner)
        _WORKER.update(setting=(setting, policy), runner=runner, task=None)
    if _WORKER["task"] != job.task:
        if env := _WORKER.pop("env", None):
            env.close()
        env = make_env(setting.env_cfg, job.task)
        _WORKER["runner"].check(env.observation_space, env.action_space)
        _WORKER.update(task=job.task, env=env)
    env_seed = episode_seed(setting.split, setting.seed, job.episode)
    instruction = setting.instruction if job.is_own else instruction_of(setting.env_cfg, job.instructed, env_seed)
    with tempfile.TemporaryDirectory() as folder:
        video = Path(folder) / "episode.mp4" if film else None
        rollout = roll_out(_WORKER["env"], _WORKER["runner"], env_seed, instruction, video)
        return rollout, video.read_bytes() if video else None


def video_name(job: Job) -> str:
    """File name of an episode's video."""
    instructed = "" if job.is_own else f"-told-{job.instructed}"
    return f"{job.task}{instructed}-{job.episode:03d}.mp4"


def jobs_to_film(results: Mapping[Job, Rollout], per_outcome: int) -> list[Job]:
    """The first `per_outcome` successes, and failures, of every task."""
    chosen = []
    for task in dict.fromkeys(job.task for job in results):
        for success in (True, False):
            jobs = [job for job, rollout in results.items() if job.task == task and rollout.success == success]
            chosen += jobs[:per_outcome]
    return chosen


def keep_videos(folder: Path, results: Mapping[Job, Rollout], per_outcome: int) -> list[Path]:
    """Keep the videos of `jobs_to_film` only, and add the outcome to their names."""
    videos = []
    for job in jobs_to_film(results, per_outcome):
        video = folder / video_name(job)
        outcome = "success" if results[job].success else "failure"
        videos.append(video.replace(video.with_stem(f"{video.stem}-{outcome}")))
    for video in folder.glob("*.mp4"):
        if video not in videos:
            video.unlink()
    return videos
