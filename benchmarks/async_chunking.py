"""Real-time control at 20 Hz with a model three times slower than a control step: asynchronous beside synchronous.

    uv run benchmarks/async_chunking.py outputs/tinyvla-metaworld/<time>
    uv run benchmarks/async_chunking.py outputs/a outputs/b --slow torch --ticks 500

Closed loop in Meta-World with a trained policy, on the wall clock. Every chunk takes --model-ms, the policy's own time
filled up with `sleep` (as a GPU or a server would take it), `torch` (matrix products on all cores) or `python` (a loop
that keeps the interpreter to itself). In the asynchronous runs the next chunk is computed meanwhile. Episodes follow
one another until --ticks control steps are counted; the clock starts after an episode's first action, which has nothing
to wait behind. A tick is late by how long after its time its action is there.

Jumps are Euclidean distances between the actions of successive control steps: at a border from the step at which a
chunk is entered to the end of what it shares with the one before, inside everywhere else. `unjoined_jump` is that from
the last action to the new chunk as the policy predicted it: what a cross-fade has to even out, or guidance has.
Writes results/async_chunking.json and .md; the last line is one JSON object.
"""

import argparse
import gc
import json
import os
import sys
import time
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.machine import Machine, keep, markdown
from configs.composing import as_dict, load_config
from envs import decode_env, make_env
from envs.registry import resolve_tasks
from envs.seeds import episode_seed
from policies import AsynchronousRunner, PolicyRunner, asynchronous, load_checkpoint

SYNCHRONOUS = "synchronous"


def make_slow(policy: Any, seconds: float, kind: str) -> None:
    """Have every chunk of a policy take `seconds`."""
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
    """Notes where chunks are joined."""

    def __init__(self, *arguments: Any):
        self.borders: set[int] = set()  # control steps of this episode
        self.unjoined: list[float] = []  # jumps that there would have been
        super().__init__(*arguments)

    def reset(self, seed: int | None = None) -> None:
        super().reset(seed)
        self.borders.clear()

    def _enter(self, at_once: bool = False) -> None:
        old, pending = self._plan, self._pending
        super()._enter(at_once)
        if old is None or pending is None or self._pending is not None:
            return
        new, step = pending.result(), self._step
        end = max(old.end, step + asynchronous._SHORTEST_FADE)
        self.borders.update(range(step, min(end, new.end) + 1))  # the last is the step out of the mask
        before = old.actions[min(step - 1 - old.step, len(old.actions) - 1)]
        self.unjoined.append(float(np.linalg.norm(new.actions[step - new.step] - before)))


def run(checkpoint: Path, kind: str, args: argparse.Namespace) -> dict[str, Any]:
    """One run of `args.ticks` control steps; `kind` is how the model is slow, or SYNCHRONOUS."""
    env_cfg = decode_env(as_dict(load_config("evaluate", ["checkpoint=x", f"env.tasks={args.tasks}"]).env))
    loaded = load_checkpoint(checkpoint, args.device)
    make_slow(loaded[0], args.model_ms / 1e3, "sleep" if kind == SYNCHRONOUS else kind)
    runner: Any = PolicyRunner(*loaded) if kind == SYNCHRONOUS else WatchedRunner(*loaded)
    envs: list[Any] = [make_env(env_cfg, task) for task in resolve_tasks(env_cfg)]
    runner.check(envs[0].observation_space, envs[0].action_space)
    for env in envs:
        env.reset(seed=0)  # makes its GL context, long before anything is timed
    late: list[float] = []
    inside: list[float] = []
    border: list[float] = []
    successes = []
    gc.collect()
    for episode in count():
        env = envs[episode % len(envs)]
        done = False
        taken: list[np.ndarray] = []
        observation, _ = env.reset(seed=episode_seed("evaluation", 0, episode // len(envs)))
        runner.reset(episode)
        start = None
        while not done and len(late) < args.ticks:
            # The simulator stands still between two steps, so what is seen in the idle time is this tick's.
            observation = (env.observe() if taken else observation) if runner.needs_observation else None
            if start is not None:
                due = start + len(taken) / args.hz
                time.sleep(max(0.0, due - time.perf_counter()))
            action = runner.act(observation)
            now = time.perf_counter()
            if start is None:
                start = now
            else:
                late.append(max(0.0, now - due) * 1e3)
                jump = float(np.linalg.norm(action - taken[-1]))
                (border if is_border(runner, len(taken)) else inside).append(jump)
            taken.append(action)
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
        "late_ticks": int(np.sum(np.array(late) > args.margin_ms)),
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
    """Whether the action of a step, as compared with the one before it, is at a border of chunks."""
    if isinstance(runner, WatchedRunner):
        return step in runner.borders
    return step % runner.policy.config.n_action_steps == 0


def table(rows: list[dict[str, Any]]) -> str:
    """The rows in Markdown."""
    titles = ["policy", "slow", "late_ticks", "ticks", "max_late_ms", "border_jump", "inside_jump", "ratio"]
    titles += ["mean_border_jump", "mean_inside_jump", "unjoined_jump", "held", "successes", "episodes"]
    return markdown(rows, {title: title for title in titles})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="+", type=Path, help="run folders of train.py, or checkpoints")
    parser.add_argument("--tasks", default="[default]", help="as env.tasks; the episodes take turns")
    parser.add_argument("--ticks", type=int, default=1000, help="control steps a run")
    parser.add_argument("--hz", type=float, default=20, help="control rate")
    parser.add_argument("--model-ms", type=float, default=150, help="time of a chunk")
    parser.add_argument("--margin-ms", type=float, default=5, help="from when on a tick counts as late")
    parser.add_argument("--slow", nargs="+", choices=["sleep", "torch", "python"], default=["sleep", "torch", "python"])
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()

    busy = os.getloadavg()[0]
    if busy > 0.5:
        print(f"other programs keep {busy:.1f} cores busy: ticks may be late for that", file=sys.stderr)
    rows = []
    for checkpoint in args.checkpoints:
        for kind in [*args.slow, SYNCHRONOUS]:
            rows.append(run(checkpoint, kind, args))
            print(f"{rows[-1]}", file=sys.stderr, flush=True)
    machine = Machine().summary
    text = f"{machine}; {args.hz:g} Hz, {args.model_ms:g} ms a chunk\n\n{table(rows)}"
    ours = [row for row in rows if row["slow"] != SYNCHRONOUS]
    waiting = [row for row in rows if row["slow"] == SYNCHRONOUS]
    worst = max(ours, key=lambda row: row["ratio"])
    figures = {
        "late_ticks": sum(row["late_ticks"] for row in ours),
        "max_late_ms": max(row["max_late_ms"] for row in ours),
        **{key: worst[key] for key in ("border_jump", "inside_jump", "ratio")},
        "synchronous_late_ticks": sum(row["late_ticks"] for row in waiting),
        "synchronous_max_late_ms": max(row["max_late_ms"] for row in waiting),
    }
    setting = {"machine": machine, "load_before": round(busy, 2)}
    settings = {key: value for key, value in vars(args).items() if key != "checkpoints"}
    result = figures | setting | settings | {"rows": rows}
    keep("async_chunking", result, text)
    print(f"{text}\n\n{json.dumps(result)}")


if __name__ == "__main__":
    main()
