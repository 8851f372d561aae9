"""Real-time control at 20 Hz with a model three times slower than a control step: asynchronous beside synchronous.

    uv run python -m benchmarks.async_chunking checkpoints=[outputs/tinyvla-metaworld/<time>]
    uv run python -m benchmarks.async_chunking checkpoints=[outputs/a,outputs/b] slow=[torch] ticks=500

Closed loop in Meta-World with a trained policy, on the wall clock. Every chunk takes `model_ms`: the policy's own time
plus `sleep` (as on a GPU or a server), `torch` (matrix products on all cores) or `python` (a loop that holds the
interpreter lock). In the asynchronous runs the next chunk is computed meanwhile. Episodes are played until `ticks`
control steps are counted; the clock of an episode starts after its first action. A tick is late by the time between
its due time and its action.

Jumps are Euclidean distances between the actions of successive control steps: at a border from the step at which a
chunk is entered to the end of its overlap with the one before, inside everywhere else. `unjoined_jump` is the jump from
the last action to the new chunk as the policy predicted it, before cross-fade or guidance.
Writes results/async_chunking.json and .md; the last line is one JSON object.
"""

import gc
import json
import sys
import time
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.machine import Machine, keep, markdown, warn_if_busy
from benchmarks.settings import as_values, required, setting, start
from configs.composing import as_dict, load_config
from envs import decode_env, make_env
from envs.registry import resolve_tasks
from envs.seeds import episode_seed
from policies import AsynchronousRunner, PolicyRunner, asynchronous, load_checkpoint

SLOW, SYNCHRONOUS = ("sleep", "torch", "python"), "synchronous"


def make_slow(policy: Any, seconds: float, kind: str) -> None:
    """Make every chunk of a policy take `seconds`."""
    predict = policy.predict_action_chunk
    square = torch.rand(256, 256)

    def slow(*arguments: Any, **named: Any) -> torch.Tensor:
        end = time.perf_counter() + seconds
        chunk = predict(*arguments, **named)
        if kind == "sleep":
            time.sleep(max(0.0, end - time.perf_counter()))
        while time.perf_counter() < end:
            if kind == "torch":
                torch.matmul(square, square)
        return chunk

    policy.predict_action_chunk = slow


class WatchedRunner(AsynchronousRunner):
    """Asynchronous runner that records where chunks are joined."""

    def __init__(self, *arguments: Any):
        self.borders: set[int] = set()  # control steps of this episode
        self.unjoined: list[float] = []  # jumps before chunks are joined
        super().__init__(*arguments)

    def reset(self, seed: int | None = None) -> None:
        super().reset(seed)
        self.borders.clear()

    def _take_arrived(self, wait_for_it: bool = False) -> None:
        old, pending = self._plan, self._pending
        super()._take_arrived(wait_for_it)
        if old is None or pending is None or self._pending is not None:
            return
        new, step = pending.result(), self._step
        end = max(old.end, step + asynchronous._SHORTEST_FADE)
        self.borders.update(range(step, min(end, new.end) + 1))  # the last is the step out of the mask
        before = old.actions[min(step - 1 - old.step, len(old.actions) - 1)]
        self.unjoined.append(float(np.linalg.norm(new.actions[step - new.step] - before)))


@dataclass
class Settings:
    """Settings of the command line."""

    checkpoints: list[Path] = required("run folders of train.py, or checkpoints")
    tasks: str = setting("[default]", "as env.tasks; the episodes take turns")
    ticks: int = setting(1000, "control steps per run")
    hz: float = setting(20.0, "control rate")
    model_ms: float = setting(150.0, "time of a chunk in ms")
    margin_ms: float = setting(5.0, "lateness from which a tick counts as late")
    slow: list[str] = setting(list(SLOW), "ways to slow the model down", SLOW)
    device: str = setting("cpu", "device of the policy")


def run(checkpoint: Path, kind: str, settings: Settings) -> dict[str, Any]:
    """Figures of a run of `settings.ticks` control steps; `kind` is the way the model is slow, or SYNCHRONOUS."""
    env_cfg = decode_env(as_dict(load_config("evaluate", ["checkpoint=x", f"env.tasks={settings.tasks}"]).env))
    loaded = load_checkpoint(checkpoint, settings.device)
    make_slow(loaded[0], settings.model_ms / 1e3, "sleep" if kind == SYNCHRONOUS else kind)
    runner: Any = PolicyRunner(*loaded) if kind == SYNCHRONOUS else WatchedRunner(*loaded)
    envs: list[Any] = [make_env(env_cfg, task) for task in resolve_tasks(env_cfg)]
    runner.check(envs[0].observation_space, envs[0].action_space)
    for env in envs:
        env.reset(seed=0)  # creates its GL context before anything is timed
    late: list[float] = []
    inside: list[float] = []
    border: list[float] = []
    successes = []
    gc.collect()
    for episode in count():
        env = envs[episode % len(envs)]
        done = False
        actions: list[np.ndarray] = []
        observation, _ = env.reset(seed=episode_seed("evaluation", 0, episode // len(envs)))
        runner.reset(episode)
        start = None
        while not done and len(late) < settings.ticks:
            # The simulator stands still between two steps, so an observation from the idle time is this tick's.
            observation = (env.observe() if actions else observation) if runner.needs_observation else None
            if start is not None:
                due = start + len(actions) / settings.hz
                time.sleep(max(0.0, due - time.perf_counter()))
            action = runner.act(observation)
            now = time.perf_counter()
            if start is None:
                start = now
            else:
                late.append(max(0.0, now - due) * 1e3)
                jump = float(np.linalg.norm(action - actions[-1]))
                (border if is_border(runner, len(actions)) else inside).append(jump)
            actions.append(action)
            _, terminated, truncated, info = env.apply(action)
            done = terminated or truncated
        if not done:
            break
        successes.append(info["success"])
    if kind != SYNCHRONOUS:
        runner.reset()
        runner.close()
    for env in envs:
        env.close()
    figures = {
        "checkpoint": str(checkpoint),
        "policy": loaded[0].config.type,
        "slow": kind,
        "ticks": len(late),
        "late_ticks": int(np.sum(np.array(late) > settings.margin_ms)),
        "max_late_ms": round(max(late), 2),
        "border_jump": round(max(border, default=0.0), 4),
        "inside_jump": round(max(inside, default=0.0), 4),
        "ratio": round(max(border, default=0.0) / max(inside, default=1.0), 3),
        "mean_border_jump": round(float(np.mean(border)), 4) if border else None,
        "mean_inside_jump": round(float(np.mean(inside)), 4) if inside else None,
        "successes": int(sum(successes)),
        "episodes": len(successes),
    }
    if kind != SYNCHRONOUS:
        figures |= {
            "unjoined_jump": round(max(runner.unjoined), 4),
            "mean_unjoined_jump": round(float(np.mean(runner.unjoined)), 4),
            "held": runner.held,
            "joined_chunks": len(runner.unjoined),
        }
    return figures


def is_border(runner: Any, step: int) -> bool:
    """True if the step from the action before to the one at `step` crosses a border of chunks."""
    if isinstance(runner, WatchedRunner):
        return step in runner.borders
    return step % runner.policy.config.n_action_steps == 0


def table(rows: list[dict[str, Any]]) -> str:
    """The rows in Markdown."""
    titles = ["policy", "slow", "late_ticks", "ticks", "max_late_ms", "border_jump", "inside_jump", "ratio"]
    titles += ["mean_border_jump", "mean_inside_jump", "unjoined_jump", "held", "successes", "episodes"]
    return markdown(rows, {title: title for title in titles})


def main(settings: Settings) -> None:
    load = warn_if_busy("ticks may be late for that")
    rows = []
    for checkpoint in settings.checkpoints:
        for kind in [*settings.slow, SYNCHRONOUS]:
            rows.append(run(checkpoint, kind, settings))
            print(f"{rows[-1]}", file=sys.stderr, flush=True)
    machine = Machine().summary
    text = f"{machine}; {settings.hz:g} Hz, {settings.model_ms:g} ms per chunk\n\n{table(rows)}"
    asynchronous_rows = [row for row in rows if row["slow"] != SYNCHRONOUS]
    synchronous_rows = [row for row in rows if row["slow"] == SYNCHRONOUS]
    worst = max(asynchronous_rows, key=lambda row: row["ratio"])
    figures = {
        "late_ticks": sum(row["late_ticks"] for row in asynchronous_rows),
        "max_late_ms": max(row["max_late_ms"] for row in asynchronous_rows),
        **{key: worst[key] for key in ("border_jump", "inside_jump", "ratio")},
        "synchronous_late_ticks": sum(row["late_ticks"] for row in synchronous_rows),
        "synchronous_max_late_ms": max(row["max_late_ms"] for row in synchronous_rows),
    }
    conditions = {"machine": machine, "load_before": load}
    values = {key: value for key, value in as_values(settings).items() if key != "checkpoints"}
    result = figures | conditions | values | {"rows": rows}
    keep("async_chunking", result, text)
    print(f"{text}\n\n{json.dumps(result)}")


if __name__ == "__main__":
    start(main, Settings, __doc__)
