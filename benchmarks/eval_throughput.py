"""Evaluation throughput: ours with one worker and two beside lerobot-eval, the same policy on the same episodes.

    uv run benchmarks/eval_throughput.py outputs/tinyvla-metaworld/<time>
    uv run benchmarks/eval_throughput.py outputs/tinyvla-metaworld/<time> --turns 1 --episodes 2    # a quick look

Everything runs one after the other, --turns times, so that whatever else the machine does hits all alike; the rows are

- lerobot-eval in our Meta-World (`--env.type=tinyvla_metaworld`, the pictures that the policy was trained with), as it
  is, with a batch of two episodes in two processes, and without its videos (it films ten episodes a task);
- ours, looking at every step as lerobot-eval does, as it is with one worker, and with two;
- in LeRobot's own Meta-World (`--env.type=metaworld`: stock look, one camera, 480 pixels, no other to be had) and in
  ours of that size, a fresh policy of one camera with random weights, for --own-steps control steps an episode.

Steps a second count control steps of episodes until they end. Starting (imports, loading, the first episode of every
process) is left out of the rates and stands beside them as `start_s`. The factor from one row to the next is what that
difference is worth. Writes results/eval_throughput.json and .md; the last line is one JSON object.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import Executor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.machine import Machine, keep, markdown

CAMERA = "corner2"


class Turn(NamedTuple):
    """One turn of one row: what it did, and seconds for it and for starting."""

    steps: int
    episodes: int
    seconds: float
    start_s: float


class Row(NamedTuple):
    """A way to evaluate. `lerobot`: further arguments of lerobot-eval; else ours, in the pool of that many workers."""

    name: str
    lerobot: list[str] | None = None
    videos: bool = True
    workers: int = 1
    every_step: bool = False
    own: bool = False


ROWS = [
    Row("lerobot-eval", []),
    Row("lerobot-eval, batch of 2", ["--eval.batch_size=2"]),
    Row("lerobot-eval, no videos", [], videos=False),
    Row("ours, looking at every step", every_step=True),
    Row("ours, 1 worker"),
    Row("ours, 2 workers", workers=2),
    Row("own env: lerobot-eval", [], own=True),
    Row("own env: lerobot-eval, no videos", [], videos=False, own=True),
    Row("own env: ours, 1 worker", own=True),
    Row("own env: ours, 2 workers", workers=2, own=True),
]


def our_episode(setting: Any, job: Any, every_step: bool) -> tuple[int, int]:
    """One episode in a worker process: its control steps, and which process it was."""
    from envs.evaluation import _run_job
    from envs.workers import Folder
    from policies import PolicyRunner

    usual = PolicyRunner.needs_observation
    try:
        if every_step:
            PolicyRunner.needs_observation = property(lambda runner: True)  # type: ignore[assignment, misc]
        return _run_job(setting, Folder(setting.checkpoint), job, False)[0].steps, os.getpid()
    finally:
        PolicyRunner.needs_observation = usual  # type: ignore[method-assign]


def our_turn(pool: Executor, setting: Any, row: Row, task: str, episodes: int) -> Turn:
    from envs.evaluation import Job

    def play(count: int) -> list[tuple[int, int]]:
        jobs = [Job(task, task, i) for i in range(count)]
        return [future.result() for future in [pool.submit(our_episode, setting, job, row.every_step) for job in jobs]]

    began = time.perf_counter()
    started: set[int] = set()
    while len(started) < row.workers:  # every process plays an episode that does not count
        started |= {process for _, process in play(row.workers)}
    start = time.perf_counter()
    steps = sum(length for length, _ in play(episodes))
    return Turn(steps, episodes, time.perf_counter() - start, start - began)


def lerobot_turn(row: Row, arguments: list[str], episodes: int, own_steps: int) -> Turn:
    with tempfile.TemporaryDirectory() as folder:
        batch = 2 if "--eval.batch_size=2" in arguments else 1
        command = [
            sys.executable,
            "-m",
            "benchmarks.eval_throughput",
            "--as-lerobot-eval",
            json.dumps([row.videos, row.own and own_steps]),
        ]
        command += [*arguments, f"--eval.n_episodes={episodes + batch}", f"--output_dir={folder}/out", "--seed=0"]
        began = time.time()
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"lerobot-eval failed: {done.stderr[-3000:]}")
        figures = json.loads(done.stdout.splitlines()[-1])
    return Turn(figures["steps"], figures["episodes"], figures["seconds"], figures["start"] - began)


def as_lerobot_eval(videos: bool, own_steps: int) -> None:
    """lerobot-eval in this process, with a clock; its first batch does not count."""
    import lerobot.scripts.lerobot_eval as script
    import torch

    rollout, evaluate = script.rollout, script.eval_policy_all
    ended: list[tuple[int, int, float]] = []  # of every batch: steps, episodes, time
    finished = []

    def timed_rollout(**arguments: Any) -> Any:
        data = rollout(**arguments)
        done = data["done"].to(int)
        ended.append((int((torch.argmax(done, dim=1) + 1).sum()), len(done), time.time()))
        return data

    def timed_evaluate(*arguments: Any, **named: Any) -> Any:
        result = evaluate(*arguments, **named | ({} if videos else {"max_episodes_rendered": 0}))
        finished.append(time.time())
        return result

    script.rollout, script.eval_policy_all = timed_rollout, timed_evaluate
    if own_steps:
        from lerobot.envs.metaworld import MetaworldEnv

        make = MetaworldEnv.__init__

        def shortened(env: Any, *arguments: Any, **named: Any) -> None:
            make(env, *arguments, **named)
            env._max_episode_steps = own_steps  # it has no setting for this

        MetaworldEnv.__init__ = shortened
    script.main()
    steps, episodes = (sum(batch[i] for batch in ended[1:]) for i in (0, 1))
    start = ended[0][2]
    print(json.dumps({"steps": steps, "episodes": episodes, "seconds": finished[0] - start, "start": start}))


def fresh_policy(folder: Path) -> Path:
    """A policy with random weights that sees LeRobot's one camera at its 480 pixels."""
    import torch
    from lerobot.configs import FeatureType, PolicyFeature

    from configs.composing import as_dict, load_config
    from policies import decode_policy_config, make_processors, save_checkpoint_files
    from policies.tinyvla.modeling_tinyvla import TinyVLAPolicy

    config = decode_policy_config(as_dict(load_config("train").policy), "cpu")
    config.input_features = {
        f"observation.images.{CAMERA}": PolicyFeature(FeatureType.VISUAL, (3, 480, 480)),
        "observation.state": PolicyFeature(FeatureType.STATE, (4,)),
    }
    config.output_features = {"action": PolicyFeature(FeatureType.ACTION, (4,))}
    torch.manual_seed(0)
    policy = TinyVLAPolicy(config)
    ones = {"min": -torch.ones(4), "max": torch.ones(4), "mean": torch.zeros(4), "std": torch.ones(4)}
    save_checkpoint_files(policy, *make_processors(policy, {"observation.state": ones, "action": ones}), folder)
    return folder


def main() -> None:
    if sys.argv[1:2] == ["--as-lerobot-eval"]:
        videos, own_steps = json.loads(sys.argv[2])
        del sys.argv[1:3]
        as_lerobot_eval(videos, own_steps)
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="a run folder of train.py, or a checkpoint")
    parser.add_argument("--task", default="drawer-open-v3")
    parser.add_argument("--turns", type=int, default=2, help="turns of every row (default: %(default)s)")
    parser.add_argument("--episodes", type=int, default=8, help="episodes a turn (default: %(default)s)")
    parser.add_argument("--own-episodes", type=int, default=1, help="a turn, in LeRobot's own environment")
    parser.add_argument("--own-steps", type=int, default=40, help="steps an episode, in LeRobot's own environment")
    args = parser.parse_args()

    from configs.composing import as_dict, load_config
    from envs import decode_env
    from envs.evaluation import Setting
    from envs.workers import worker_pool
    from policies import find_checkpoint

    busy = os.getloadavg()[0]
    if busy > 0.5:
        print(f"other programs keep {busy:.1f} cores busy: the figures will be too low", file=sys.stderr)
    env_cfg = decode_env(as_dict(load_config("evaluate", ["checkpoint=x", f"env.tasks=[{args.task}]"]).env))
    own_cfg = replace(env_cfg, cameras=[CAMERA], image_size=480, max_steps=args.own_steps)
    turns: dict[str, list[Turn]] = {row.name: [] for row in ROWS}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        checkpoint, fresh = find_checkpoint(args.checkpoint), fresh_policy(folder / "fresh")
        pools = {workers: stack.enter_context(worker_pool(workers)) for workers in (1, 2)}
        settings = {
            own: Setting(path, cfg, "evaluation", 0, "cpu", {})
            for own, path, cfg in ((False, checkpoint, env_cfg), (True, fresh, own_cfg))
        }
        # What lerobot-eval is told, and has no defaults of its own for.
        arguments = {
            False: [
                *("--env.type=tinyvla_metaworld", f"--env.task={args.task}", f"--policy.path={checkpoint}"),
                f"--env.cameras={json.dumps(env_cfg.cameras)}",
                f"--env.image_size={env_cfg.image_size}",
            ],
            True: [
                *("--env.type=metaworld", f"--env.task={args.task}", f"--policy.path={fresh}"),
                f"--rename_map={json.dumps({'observation.image': f'observation.images.{CAMERA}'})}",
            ],
        }
        for turn in range(args.turns):
            for row in ROWS:
                episodes = args.own_episodes if row.own else args.episodes
                if row.lerobot is None:
                    done = our_turn(pools[row.workers], settings[row.own], row, args.task, episodes)
                else:
                    done = lerobot_turn(row, [*arguments[row.own], *row.lerobot], episodes, args.own_steps)
                turns[row.name].append(done)
                rate = done.steps / done.seconds
                print(f"turn {turn + 1} of {args.turns}, {row.name}: {rate:.1f} steps/s", file=sys.stderr, flush=True)

    rows = {name: figures(done) for name, done in turns.items()}
    machine = Machine().summary
    text = f"{machine}; {args.task}, {args.turns} turns of {args.episodes} episodes\n\n{table(rows)}"
    rates = {name: row["steps_per_s"] for name, row in rows.items()}
    fastest = max(rates[row.name] for row in ROWS if row.lerobot is not None and row.videos and not row.own)
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
    setting = {"machine": machine, "load_before": round(busy, 2), "gl": os.environ.get("MUJOCO_GL", "")}
    given = vars(args) | {"checkpoint": str(args.checkpoint)}
    result = summary | setting | given | {"rows": rows}
    keep("eval_throughput", result, text)
    print(f"{text}\n\n{json.dumps(result)}")


def figures(turns: list[Turn]) -> dict[str, Any]:
    """All turns of a row together, and how far apart they were."""
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
    main()
