"""Evaluation throughput: ours with one worker and two beside lerobot-eval, the same policy on the same episodes.

    uv run python -m benchmarks.eval_throughput checkpoint=outputs/tinyvla-metaworld/<time>
    uv run python -m benchmarks.eval_throughput checkpoint=outputs/<run> turns=1 episodes=2    # a quick look

All rows run one after the other, `turns` times, so that other load affects all alike; the rows are

- lerobot-eval in our Meta-World (`--env.type=tinyvla_metaworld`, the images that the policy was trained with): as it
  is, with a batch of two episodes in two processes, and without its videos (it films ten episodes per task);
- ours: with an image at every step as in lerobot-eval, as it is with one worker, and with two;
- in LeRobot's own Meta-World (`--env.type=metaworld`: stock look, one camera, always 480 pixels) and in ours at that
  size: a policy of one camera with random weights, for `lerobot_env_steps` control steps per episode.

Rates count control steps of episodes until they end. The start (imports, loading, the first episode of every process)
is not part of the rates and is listed as `start_s`. The factor from one row to the next is the gain of that
difference. Writes results/eval_throughput.json and .md; the last line is one JSON object.
"""

import json
import os
import sys
import tempfile
import time
from concurrent.futures import Executor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.machine import Machine, keep, markdown, warn_if_busy
from benchmarks.own_process import in_own_process
from benchmarks.random_policy import write_random_policy
from benchmarks.settings import as_values, required, setting, start

CAMERA = "corner2"


class Turn(NamedTuple):
    """Steps and episodes of one turn of a row, and seconds for them and for the start."""

    steps: int
    episodes: int
    seconds: float
    start_s: float


class Row(NamedTuple):
    """A way to evaluate. lerobot: extra arguments of lerobot-eval; None: our evaluation with `workers` processes."""

    name: str
    lerobot: list[str] | None = None
    videos: bool = True
    workers: int = 1
    every_step: bool = False
    lerobot_env: bool = False


ROWS = [
    Row("lerobot-eval", []),
    Row("lerobot-eval, batch of 2", ["--eval.batch_size=2"]),
    Row("lerobot-eval, no videos", [], videos=False),
    Row("ours, looking at every step", every_step=True),
    Row("ours, 1 worker"),
    Row("ours, 2 workers", workers=2),
    Row("own env: lerobot-eval", [], lerobot_env=True),
    Row("own env: lerobot-eval, no videos", [], videos=False, lerobot_env=True),
    Row("own env: ours, 1 worker", lerobot_env=True),
    Row("own env: ours, 2 workers", workers=2, lerobot_env=True),
]


def our_episode(setting: Any, job: Any, every_step: bool) -> tuple[int, int]:
    """Control steps of one episode in a worker process, and the id of that process."""
    from envs.evaluation import _run_job
    from envs.workers import Folder
    from policies import PolicyRunner

    needs_observation = PolicyRunner.needs_observation
    try:
        if every_step:
            PolicyRunner.needs_observation = property(lambda runner: True)  # type: ignore[assignment, misc]
        return _run_job(setting, Folder(setting.checkpoint), job, False)[0].steps, os.getpid()
    finally:
        PolicyRunner.needs_observation = needs_observation  # type: ignore[method-assign]


def our_turn(pool: Executor, setting: Any, row: Row, task: str, episodes: int) -> Turn:
    from envs.evaluation import Job

    def play(count: int) -> list[tuple[int, int]]:
        jobs = [Job(task, task, i) for i in range(count)]
        return [future.result() for future in [pool.submit(our_episode, setting, job, row.every_step) for job in jobs]]

    began = time.perf_counter()
    started: set[int] = set()
    while len(started) < row.workers:  # every process plays an episode that is not counted
        started |= {process for _, process in play(row.workers)}
    start = time.perf_counter()
    steps = sum(length for length, _ in play(episodes))
    return Turn(steps, episodes, time.perf_counter() - start, start - began)


def lerobot_turn(row: Row, arguments: list[str], episodes: int, lerobot_env_steps: int) -> Turn:
    with tempfile.TemporaryDirectory() as folder:
        batch = 2 if "--eval.batch_size=2" in arguments else 1
        arguments = [*arguments, f"--eval.n_episodes={episodes + batch}", f"--output_dir={folder}/out", "--seed=0"]
        max_steps = lerobot_env_steps if row.lerobot_env else None
        began = time.time()
        figures = in_own_process("benchmarks.eval_throughput:timed_lerobot_eval", arguments, row.videos, max_steps)
    return Turn(figures["steps"], figures["episodes"], figures["seconds"], figures["start"] - began)


def timed_lerobot_eval(arguments: list[str], videos: bool, max_steps: int | None) -> dict[str, Any]:
    """Figures of lerobot-eval in this process; its first batch is not counted.

    max_steps: control steps per episode; None: as the environment has it.
    """
    import lerobot.scripts.lerobot_eval as script
    import torch

    rollout, evaluate = script.rollout, script.eval_policy_all
    ended: list[tuple[int, int, float]] = []  # per batch: steps, episodes, time
    finished = []

    def timed_rollout(**named: Any) -> Any:
        data = rollout(**named)
        done = data["done"].to(int)
        ended.append((int((torch.argmax(done, dim=1) + 1).sum()), len(done), time.time()))
        return data

    def timed_evaluate(*values: Any, **named: Any) -> Any:
        result = evaluate(*values, **named | ({} if videos else {"max_episodes_rendered": 0}))
        finished.append(time.time())
        return result

    script.rollout, script.eval_policy_all = timed_rollout, timed_evaluate
    if max_steps:
        from lerobot.envs.metaworld import MetaworldEnv

        init = MetaworldEnv.__init__

        def shortened(env: Any, *values: Any, **named: Any) -> None:
            init(env, *values, **named)
            env._max_episode_steps = max_steps  # LeRobot has no setting for this

        MetaworldEnv.__init__ = shortened
    sys.argv = ["lerobot-eval", *arguments]
    script.main()
    steps, episodes = (sum(batch[i] for batch in ended[1:]) for i in (0, 1))
    start = ended[0][2]
    return {"steps": steps, "episodes": episodes, "seconds": finished[0] - start, "start": start}


@dataclass
class Settings:
    """Settings of the command line."""

    checkpoint: Path = required("run folder of train.py, or checkpoint")
    task: str = setting("drawer-open-v3", "task of all rows")
    turns: int = setting(2, "turns per row")
    episodes: int = setting(8, "episodes per turn")
    lerobot_env_episodes: int = setting(1, "episodes per turn in LeRobot's own environment")
    lerobot_env_steps: int = setting(40, "steps per episode in LeRobot's own environment")


def main(settings: Settings) -> None:

    from configs.composing import as_dict, load_config
    from envs import decode_env
    from envs.evaluation import Setting
    from envs.workers import worker_pool
    from policies import find_checkpoint

    load = warn_if_busy("the rates are too low")
    env_cfg = decode_env(as_dict(load_config("evaluate", ["checkpoint=x", f"env.tasks=[{settings.task}]"]).env))
    lerobot_env_cfg = replace(env_cfg, cameras=[CAMERA], image_size=480, max_steps=settings.lerobot_env_steps)
    turns: dict[str, list[Turn]] = {row.name: [] for row in ROWS}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        checkpoint, random_policy = (
            find_checkpoint(settings.checkpoint),
            write_random_policy(folder / "random", {CAMERA: 480}, [-1.0] * 4, [1.0] * 4),
        )
        pools = {workers: stack.enter_context(worker_pool(workers)) for workers in (1, 2)}
        cases = {
            lerobot_env: Setting(path, cfg, "evaluation", 0, "cpu", {})
            for lerobot_env, path, cfg in ((False, checkpoint, env_cfg), (True, random_policy, lerobot_env_cfg))
        }
        # Arguments without a default in lerobot-eval.
        arguments = {
            False: [
                *("--env.type=tinyvla_metaworld", f"--env.task={settings.task}", f"--policy.path={checkpoint}"),
                f"--env.cameras={json.dumps(env_cfg.cameras)}",
                f"--env.image_size={env_cfg.image_size}",
            ],
            True: [
                *("--env.type=metaworld", f"--env.task={settings.task}", f"--policy.path={random_policy}"),
                f"--rename_map={json.dumps({'observation.image': f'observation.images.{CAMERA}'})}",
            ],
        }
        for turn in range(settings.turns):
            for row in ROWS:
                episodes = settings.lerobot_env_episodes if row.lerobot_env else settings.episodes
                if row.lerobot is None:
                    turn_figures = our_turn(pools[row.workers], cases[row.lerobot_env], row, settings.task, episodes)
                else:
                    turn_figures = lerobot_turn(
                        row, [*arguments[row.lerobot_env], *row.lerobot], episodes, settings.lerobot_env_steps
                    )
                turns[row.name].append(turn_figures)
                rate = turn_figures.steps / turn_figures.seconds
                print(
                    f"turn {turn + 1} of {settings.turns}, {row.name}: {rate:.1f} steps/s", file=sys.stderr, flush=True
                )

    rows = {name: figures(row_turns) for name, row_turns in turns.items()}
    machine = Machine().summary
    text = f"{machine}; {settings.task}, {settings.turns} turns of {settings.episodes} episodes\n\n{table(rows)}"
    rates = {name: row["steps_per_s"] for name, row in rows.items()}
    fastest = max(rates[row.name] for row in ROWS if row.lerobot is not None and row.videos and not row.lerobot_env)
    summary = {
        "two_workers_over_one": round(rates["ours, 2 workers"] / rates["ours, 1 worker"], 2),
        "over_lerobot_eval": round(rates["ours, 2 workers"] / fastest, 2),
        "over_lerobot_eval_without_videos": round(rates["ours, 2 workers"] / rates["lerobot-eval, no videos"], 2),
        "over_lerobot_eval_in_its_own_env": round(
            rates["own env: ours, 2 workers"] / rates["own env: lerobot-eval"], 2
        ),
        "made_of": {
            "no video of every episode": round(rates["lerobot-eval, no videos"] / rates["lerobot-eval"], 2),
            "our loop": round(rates["ours, looking at every step"] / rates["lerobot-eval, no videos"], 2),
            "looking only when a chunk is due": round(
                rates["ours, 1 worker"] / rates["ours, looking at every step"], 2
            ),
            "two workers": round(rates["ours, 2 workers"] / rates["ours, 1 worker"], 2),
        },
    }
    conditions = {"machine": machine, "load_before": load, "gl": os.environ.get("MUJOCO_GL", "")}
    values = as_values(settings)
    result = summary | conditions | values | {"rows": rows}
    keep("eval_throughput", result, text)
    print(f"{text}\n\n{json.dumps(result)}")


def figures(turns: list[Turn]) -> dict[str, Any]:
    """Rates over all turns of a row, and their range."""
    steps, episodes, seconds = (sum(turn[i] for turn in turns) for i in range(3))
    rates = [turn.steps / turn.seconds for turn in turns]
    return {
        "steps_per_s": round(steps / seconds, 1),
        "steps_per_s_range": [round(min(rates), 1), round(max(rates), 1)],
        "episodes_per_min": round(60 * episodes / seconds, 2),
        "steps": steps,
        "episodes": episodes,
        "start_s": round(max(turn.start_s for turn in turns), 1),
    }


def table(rows: dict[str, dict[str, Any]]) -> str:
    """The rows in Markdown."""
    titles = ["steps_per_s", "episodes_per_min", "steps", "episodes", "start_s"]
    named = [{"name": name} | row for name, row in rows.items()]
    return markdown(named, {"name": ""} | {title: title for title in titles})


if __name__ == "__main__":
    start(main, Settings, __doc__)
