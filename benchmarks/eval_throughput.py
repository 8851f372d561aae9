"""Evaluation throughput: lerobot-eval in all its ways beside ours, the same policy from the same start states.

    uv run python -m benchmarks.eval_throughput checkpoint=outputs/tinyvla-metaworld/<time>
    uv run python -m benchmarks.eval_throughput checkpoint=outputs/<run> turns=1 episodes=2    # a quick look

All rows run one after the other, `turns` times, so that other load affects all alike; they are, in our Meta-World with
the images that the policy was trained with:

- lerobot-eval (`--env.type=tinyvla_metaworld`) with one episode per batch and with two (in two processes), each with
  videos and without;
- ours with one worker and with two, each with a video of every episode and without;
- ours without videos, but with an image at every step, as lerobot-eval has it.

All rows begin their episodes in the same start states. The policy's random draws differ, and so do the lengths of the
episodes: rates are given per control step and per episode, and steps are counted until an episode ends. The start
(imports, loading, the first episode of every process) is not part of the rates and is listed as `start_s`.

`over_lerobot_eval` compares ours with two workers to the fastest row of lerobot-eval, without videos and with them.
`factors` goes from lerobot-eval's fastest row of all to ours with two workers in steps that change one thing each, so
that the factors multiply to the whole.
Writes results/eval_throughput.json and .md; the last line is one JSON object.
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.machine import Machine, keep, markdown, versions, warn_if_busy
from benchmarks.own_process import in_own_process
from benchmarks.settings import as_values, required, setting, start
from tinyvla.errors import UserError

FIRST = 2  # the first episode that is counted; those before start the processes


class Turn(NamedTuple):
    """Steps and episodes of one turn of a row, and seconds for them and for the start."""

    steps: int
    episodes: int
    seconds: float
    start_s: float


class Row(NamedTuple):
    """A way to evaluate. processes: episodes at once. every_step: an image at every step (lerobot-eval's only way)."""

    tool: str
    processes: int
    videos: bool
    every_step: bool = False

    @property
    def name(self) -> str:
        at_once = f"{self.processes} {'per batch' if self.tool == LEROBOT else 'at once'}"
        differences = ["videos"] * self.videos + ["an image at every step"] * (self.every_step and self.tool == OURS)
        return ", ".join([f"{self.tool}, {at_once}", *differences])


LEROBOT, OURS = "lerobot-eval", "ours"
ROWS = [
    *(Row(LEROBOT, processes, videos, every_step=True) for videos in (True, False) for processes in (1, 2)),
    *(Row(OURS, processes, videos=False, every_step=True) for processes in (1, 2)),
    *(Row(OURS, processes, videos) for videos in (True, False) for processes in (1, 2)),
]


def our_episode(setting: Any, job: Any, row: Row) -> tuple[int, int]:
    """Control steps of one episode in a worker process, and the id of that process."""
    from envs.evaluation import _run_job
    from envs.workers import Folder
    from policies import PolicyRunner

    needs_observation = PolicyRunner.needs_observation
    try:
        if row.every_step:
            PolicyRunner.needs_observation = property(lambda runner: True)  # type: ignore[assignment, misc]
        return _run_job(setting, Folder(setting.checkpoint), job, row.videos)[0].steps, os.getpid()
    finally:
        PolicyRunner.needs_observation = needs_observation  # type: ignore[method-assign]


def our_turn(pool: Executor, setting: Any, row: Row, task: str, episodes: int) -> Turn:
    from envs.evaluation import Job

    def play(numbers: range) -> list[tuple[int, int]]:
        futures = [pool.submit(our_episode, setting, Job(task, task, number), row) for number in numbers]
        return [future.result() for future in futures]

    began = time.perf_counter()
    started: set[int] = set()
    while len(started) < row.processes:  # every process plays an episode that is not counted
        started |= {process for _, process in play(range(row.processes))}
    start = time.perf_counter()
    steps = sum(length for length, _ in play(range(FIRST, FIRST + episodes)))
    return Turn(steps, episodes, time.perf_counter() - start, start - began)


def lerobot_turn(row: Row, arguments: list[str], episodes: int) -> Turn:
    with tempfile.TemporaryDirectory() as folder:
        arguments = [
            *arguments,
            f"--eval.batch_size={row.processes}",
            f"--eval.n_episodes={row.processes + episodes}",
            f"--seed={FIRST - row.processes}",  # the batch after the first one begins with episode FIRST
            f"--output_dir={folder}/out",
        ]
        began = time.time()
        figures = in_own_process(
            "benchmarks.eval_throughput:timed_lerobot_eval", arguments, episodes if row.videos else 0
        )
    return Turn(figures["steps"], figures["episodes"], figures["seconds"], figures["start"] - began)


def timed_lerobot_eval(arguments: list[str], videos: int) -> dict[str, Any]:
    """Figures of lerobot-eval in this process, with a number of videos; its first batch is neither counted nor filmed.

    lerobot-eval has no setting for videos: it films the first ten episodes of a task.
    """
    import lerobot.scripts.lerobot_eval as script
    import torch

    rollout, evaluate = script.rollout, script.eval_policy_all
    ended: list[tuple[int, int, float]] = []  # per batch: steps, episodes, time
    finished = []

    def timed_rollout(**named: Any) -> Any:
        data = rollout(**named | ({} if ended else {"render_callback": None}))
        done = data["done"].to(int)
        ended.append((int((torch.argmax(done, dim=1) + 1).sum()), len(done), time.time()))
        return data

    def timed_evaluate(*values: Any, **named: Any) -> Any:
        result = evaluate(*values, **named | {"max_episodes_rendered": videos})
        finished.append(time.time())
        return result

    script.rollout, script.eval_policy_all = timed_rollout, timed_evaluate
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
    episodes: int = setting(8, "episodes per turn, an even number")


def play_turns(settings: Settings) -> dict[Row, list[Turn]]:
    """Turns of every row, all rows in each turn."""
    from configs.composing import as_dict, load_config
    from envs.evaluation import Setting, decode_env_of_policy
    from envs.workers import worker_pool
    from policies import find_checkpoint

    checkpoint = find_checkpoint(settings.checkpoint)
    section = as_dict(load_config("evaluate", ["checkpoint=x", f"env.tasks=[{settings.task}]"]).env)
    env_cfg = decode_env_of_policy(section, checkpoint)
    case = Setting(checkpoint, env_cfg, "evaluation", 0, "cpu", {})
    # Arguments without a default in lerobot-eval.
    arguments = [
        *("--env.type=tinyvla_metaworld", f"--env.task={settings.task}", f"--policy.path={checkpoint}"),
        *("--policy.device=cpu", f"--env.cameras={json.dumps(env_cfg.cameras)}"),
        *(f"--env.image_size={env_cfg.image_size}", f"--env.max_steps={env_cfg.max_steps}"),
    ]
    turns: dict[Row, list[Turn]] = {row: [] for row in ROWS}
    with ExitStack() as stack:
        pools = {processes: stack.enter_context(worker_pool(processes)) for processes in (1, 2)}
        for number in range(settings.turns):
            for row in ROWS:
                if row.tool == OURS:
                    turn = our_turn(pools[row.processes], case, row, settings.task, settings.episodes)
                else:
                    turn = lerobot_turn(row, arguments, settings.episodes)
                turns[row].append(turn)
                progress = f"turn {number + 1} of {settings.turns}, {row.name}: {turn.steps / turn.seconds:.1f} steps/s"
                print(progress, file=sys.stderr, flush=True)
    return turns


def row_figures(turns: Sequence[Turn]) -> dict[str, Any]:
    """Rates over all turns of a row, and the slowest and fastest turn."""
    steps, episodes, seconds = (sum(turn[i] for turn in turns) for i in range(3))
    rates = [turn.steps / turn.seconds for turn in turns]
    return {
        "steps_per_s": round(steps / seconds, 2),
        "slowest": round(min(rates), 2),
        "fastest": round(max(rates), 2),
        "episodes_per_s": round(episodes / seconds, 4),
        "steps": steps,
        "episodes": episodes,
        "start_s": round(max(turn.start_s for turn in turns), 1),
    }


def fastest_of_lerobot(rows: Mapping[Row, Mapping[str, Any]], videos: Sequence[bool]) -> Row:
    """Row of lerobot-eval with the most steps per second, out of those with videos, without, or both."""
    candidates = [row for row in rows if row.tool == LEROBOT and row.videos in videos]
    return max(candidates, key=lambda row: rows[row]["steps_per_s"])


def compare(rows: Mapping[Row, Mapping[str, Any]], videos: bool) -> dict[str, Any]:
    """Ours with two workers over the fastest row of lerobot-eval, both with videos or both without."""
    fastest, ours = fastest_of_lerobot(rows, [videos]), Row(OURS, 2, videos)
    ratios = {rate: round(rows[ours][rate] / rows[fastest][rate], 2) for rate in ("steps_per_s", "episodes_per_s")}
    return {"from": fastest.name, "to": ours.name} | ratios


def factors(rows: Mapping[Row, Mapping[str, Any]]) -> dict[str, Any]:
    """Factors in steps per second from lerobot-eval's fastest row to ours with two workers, and their product."""
    fastest = fastest_of_lerobot(rows, [True, False])
    at_once = fastest.processes
    chain = {
        "no videos": fastest._replace(videos=False),
        "our loop": Row(OURS, at_once, videos=False, every_step=True),
        "an image only when a chunk is due": Row(OURS, at_once, videos=False),
        "two workers": Row(OURS, 2, videos=False),
    }
    result: dict[str, Any] = {"from": fastest.name}
    before = fastest
    for name, row in chain.items():
        if row != before:
            result[name] = round(rows[row]["steps_per_s"] / rows[before]["steps_per_s"], 3)
        before = row
    return result | {"product": round(rows[before]["steps_per_s"] / rows[fastest]["steps_per_s"], 3)}


def main(settings: Settings) -> None:
    if settings.episodes % 2 or settings.episodes < 2:
        raise UserError(f"{settings.episodes} episodes do not fill batches of two; use an even number")
    load = warn_if_busy("the rates are too low")
    rows = {row: row_figures(turns) for row, turns in play_turns(settings).items()}
    machine = Machine().summary
    variables = {name: os.environ.get(name, "") for name in ("MUJOCO_GL", "OMP_NUM_THREADS", "LP_NUM_THREADS")}
    result = {
        "over_lerobot_eval": {"without videos": compare(rows, False), "with videos": compare(rows, True)},
        "factors": factors(rows),
        "machine": machine,
        "load_before": load,
        **variables,
        **versions("lerobot", "mujoco"),
        **as_values(settings),
        "rows": {row.name: figures for row, figures in rows.items()},
    }
    text = f"{machine}; {settings.task}, {settings.turns} turns of {settings.episodes} episodes\n\n{table(rows)}"
    keep("eval_throughput", result, text)
    print(f"{text}\n\n{json.dumps(result)}")


def table(rows: Mapping[Row, Mapping[str, Any]]) -> str:
    """The rows in Markdown."""
    titles = ["steps_per_s", "slowest", "fastest", "episodes_per_s", "steps", "episodes", "start_s"]
    named = [{"name": row.name} | dict(figures) for row, figures in rows.items()]
    return markdown(named, {"name": ""} | {title: title for title in titles})


if __name__ == "__main__":
    start(main, Settings, __doc__)
