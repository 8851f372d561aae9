"""Real-time control at 20 Hz with a model three times slower than a control step: ways to execute its chunks.

    uv run python -m benchmarks.async_chunking checkpoint=outputs/tinyvla-metaworld/<time>
    uv run python -m benchmarks.async_chunking checkpoint=outputs/<run> trajectories=3 steps=60    # a quick look

Closed loop in Meta-World with a trained policy, on the wall clock. Every chunk takes `model_ms`: the policy's own time,
and then sleep (as on a GPU or a server), matrix products on all cores, or a loop that holds the interpreter lock. The
rows:

- synchronous: the robot waits for every chunk;
- unjoined: the next chunk is computed meanwhile, and executed from its arrival on as the policy predicted it;
- joined: it is cross-faded with the chunk before;
- guided: the policy continues the chunk before while it samples (real-time chunking); late chunks are cross-faded;
- guided-torch, guided-python: the same while matrix products, or the interpreter lock, take the time.

Each row plays `trajectories` episodes. The first four rows play the same start states, so that the rows can be compared
pair by pair; the other two play others each. `distinct` counts the trajectories that differ.

The clock of an episode starts after its first action; a step is late by the time between its due time and its action.
A jump is the Euclidean distance between the actions of successive control steps, without the gripper, which opens and
closes at once on purpose. `border_jump` is the largest jump in the WINDOW steps from the one at which a chunk is
entered, as a mean over the borders of a trajectory; WINDOW is the longest fade of the default policy, and the same in
all rows. `jerk` is the mean length of the second difference of the actions, which are displacements. Both are means
over trajectories with their bootstrap interval; `_of_unjoined` is the ratio to the row unjoined on the same start
states.
Writes results/async_chunking.json and .md; the last line is one JSON object.
"""

import gc
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmarks.machine import Machine, keep, markdown, warn_if_busy
from benchmarks.settings import as_values, required, setting, start
from configs.composing import as_dict, load_config
from envs import make_env
from envs.evaluation import decode_env_of_policy
from envs.registry import resolve_tasks
from envs.seeds import episode_seed
from policies import AsynchronousRunner, PolicyRunner, load_checkpoint
from policies.asynchronous import Chunk
from tinyvla.errors import UserError
from tinyvla.intervals import bootstrap_interval

SLOW = ("sleep", "torch", "python")
WINDOW = 5  # control steps: chunks of 16, requested every 8, that arrive 3 later


class Row(NamedTuple):
    """A way to execute chunks. slow: one of SLOW."""

    asynchronous: bool = True
    joined: bool = True
    guided: bool = False
    slow: str = "sleep"


ROWS = {
    "synchronous": Row(asynchronous=False),
    "unjoined": Row(joined=False),
    "joined": Row(),
    "guided": Row(guided=True),
    "guided-torch": Row(guided=True, slow="torch"),
    "guided-python": Row(guided=True, slow="python"),
}


COMPARED = ("joined", "guided")  # with the row `unjoined`, pair by pair


class Trajectory(NamedTuple):
    """One episode.

    arm: (n, A) actions of the arm, without the gripper. borders: control steps at which a new chunk is entered, the
    episode's first one aside. late_ms: (n - 1,), of all actions but the first.
    """

    arm: np.ndarray
    borders: Sequence[int]
    late_ms: np.ndarray
    success: bool

    @property
    def border_jump(self) -> float:
        """Mean over the borders of the largest jump in the window from there on; NaN without a border."""
        jumps = np.linalg.norm(np.diff(self.arm, axis=0), axis=1)
        return float(np.mean([jumps[step - 1 : step - 1 + WINDOW].max() for step in self.borders] or [np.nan]))

    @property
    def jerk(self) -> float:
        """Mean length of the second difference of the actions; NaN for fewer than three of them."""
        lengths = np.linalg.norm(np.diff(self.arm, n=2, axis=0), axis=1)
        return float(lengths.mean()) if len(lengths) else float("nan")


class WatchedRunner(AsynchronousRunner):
    """Asynchronous runner that records where chunks are entered, and joins or guides them only if the row does."""

    def __init__(self, policy: Any, preprocessor: Any, postprocessor: Any, row: Row, latency_steps: int | None = None):
        super().__init__(policy, preprocessor, postprocessor, latency_steps)
        self.row = row
        self.guided = self.guided and row.guided

    def reset(self, seed: int | None = None) -> None:
        super().reset(seed)
        self.borders: list[int] = []  # control steps of this episode

    def _join(self, chunk: Chunk) -> Chunk:
        self.borders.append(self._step)
        return super()._join(chunk) if self.row.joined else chunk


@dataclass
class Settings:
    """Settings of the command line."""

    checkpoint: Path = required("run folder of train.py, or checkpoint")
    rows: list[str] = setting(list(ROWS), "ways to execute chunks", ROWS)
    tasks: str = setting("[default]", "as env.tasks; the episodes take turns")
    trajectories: int = setting(20, "episodes per row")
    steps: int = setting(200, "control steps after which an episode ends without success")
    hz: float = setting(20.0, "control rate")
    model_ms: float = setting(150.0, "time of a chunk in ms")
    margin_ms: float = setting(5.0, "lateness from which a step counts as late")
    device: str = setting("cpu", "device of the policy")


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


def play_row(row: Row, settings: Settings) -> tuple[list[Trajectory], int]:
    """Play the episodes of a row; returns them and the number of actions that were held."""
    overrides = ["checkpoint=x", f"env.tasks={settings.tasks}", f"env.max_steps={settings.steps}"]
    env_cfg = decode_env_of_policy(as_dict(load_config("evaluate", overrides).env), settings.checkpoint)
    loaded = load_checkpoint(settings.checkpoint, settings.device)
    make_slow(loaded[0], settings.model_ms / 1e3, row.slow)
    runner: Any = WatchedRunner(*loaded, row) if row.asynchronous else PolicyRunner(*loaded)
    envs: list[Any] = [make_env(env_cfg, task) for task in resolve_tasks(env_cfg)]
    runner.check(envs[0].observation_space, envs[0].action_space)
    for env in envs:
        env.reset(seed=0)  # creates its GL context before anything is timed
    gc.collect()
    first = SLOW.index(row.slow) * settings.trajectories
    trajectories = []
    for number in range(first, first + settings.trajectories):
        seed = episode_seed("evaluation", 0, number // len(envs))
        trajectories.append(play(runner, envs[number % len(envs)], seed, settings.hz))
    if row.asynchronous:
        runner.reset()
        runner.close()
    for env in envs:
        env.close()
    return trajectories, runner.held


def play(runner: Any, env: Any, seed: int, hz: float) -> Trajectory:
    """Play one episode at `hz` on the wall clock."""
    actions: list[np.ndarray] = []
    late_ms: list[float] = []
    observation, _ = env.reset(seed=seed)
    runner.reset(seed)
    begin, done, info = 0.0, False, {"success": False}
    while not done:
        # The simulator stands still between two steps, so an observation from the idle time is this step's.
        observation = (env.observe() if actions else observation) if runner.needs_observation else None
        due = begin + len(actions) / hz
        if actions:
            time.sleep(max(0.0, due - time.perf_counter()))
        action = runner.act(observation)
        now = time.perf_counter()
        if actions:
            late_ms.append(max(0.0, now - due) * 1e3)
        else:
            begin = now
        actions.append(action)
        _, terminated, truncated, info = env.apply(action)
        done = terminated or truncated
    if isinstance(runner, WatchedRunner):
        borders: Sequence[int] = runner.borders
    else:
        interval = runner.policy.config.n_action_steps
        borders = range(interval, len(actions), interval)
    return Trajectory(np.stack(actions)[:, : env.arm_actions], borders, np.array(late_ms), bool(info["success"]))


def figures(
    trajectories: Sequence[Trajectory], held: int, margin_ms: float, unjoined: Sequence[Trajectory] | None
) -> dict[str, Any]:
    """Figures of a row. unjoined: trajectories of the row `unjoined` if it has the same start states."""
    late_ms = np.concatenate([trajectory.late_ms for trajectory in trajectories])
    result: dict[str, Any] = {
        "trajectories": len(trajectories),
        "distinct": count_distinct(trajectories),
        "steps": len(late_ms),
        "late_steps": int((late_ms > margin_ms).sum()),
        "max_late_ms": round(float(late_ms.max()), 2),
        "held": held,
        "successes": sum(trajectory.success for trajectory in trajectories),
    }
    for name in ("border_jump", "jerk"):
        values = np.array([getattr(trajectory, name) for trajectory in trajectories])
        result |= with_interval(name, values[~np.isnan(values)])
        if unjoined is not None:
            pairs = np.stack([values, [getattr(trajectory, name) for trajectory in unjoined]], axis=1)
            result |= with_interval(f"{name}_of_unjoined", pairs[~np.isnan(pairs).any(axis=1)])
    return result


def with_interval(name: str, values: np.ndarray) -> dict[str, Any]:
    """Mean of values (n,), or ratio of the two means of (n, 2), and its interval, by name."""
    if not len(values):
        raise UserError(f"no trajectory is long enough for {name}; use more steps=")
    mean = values.mean(axis=0)
    figure = mean if values.ndim == 1 else mean[0] / mean[1]
    return {name: round(float(figure), 4), f"{name}_ci95": [round(end, 4) for end in bootstrap_interval(values)]}


def count_distinct(trajectories: Sequence[Trajectory]) -> int:
    """Number of trajectories that differ from one another in any action."""
    return len({trajectory.arm.tobytes() for trajectory in trajectories})


def table(rows: dict[str, dict[str, Any]]) -> str:
    """The rows in Markdown."""
    titles = ["row", "trajectories", "distinct", "steps", "late_steps", "max_late_ms", "held", "successes"]
    for name in ("border_jump", "jerk"):
        titles += [name, f"{name}_ci95", f"{name}_of_unjoined", f"{name}_of_unjoined_ci95"]
    return markdown([{"row": name} | row for name, row in rows.items()], {title: title for title in titles})


def check_guidance(settings: Settings) -> None:
    """Raise UserError if a row is guided and the policy cannot be."""
    policy = load_checkpoint(settings.checkpoint, settings.device)[0]
    if not policy.supports_rtc() and any(ROWS[name].guided for name in settings.rows):
        possible = ",".join(name for name in settings.rows if not ROWS[name].guided)
        raise UserError(f"the policy '{policy.config.type}' cannot continue a chunk; use rows=[{possible}]")


def main(settings: Settings) -> None:
    check_guidance(settings)
    load = warn_if_busy("steps may be late for that")
    played: dict[str, list[Trajectory]] = {}
    rows: dict[str, dict[str, Any]] = {}
    for name in sorted(settings.rows, key=list(ROWS).index):  # `unjoined` before the rows that are compared with it
        played[name], held = play_row(ROWS[name], settings)
        unjoined = played.get("unjoined") if name in COMPARED else None
        rows[name] = figures(played[name], held, settings.margin_ms, unjoined)
        print(f"{name}: {rows[name]}", file=sys.stderr, flush=True)
    machine = Machine().summary
    text = f"{machine}; {settings.hz:g} Hz, {settings.model_ms:g} ms per chunk\n\n{table(rows)}"
    distinct = count_distinct([trajectory for trajectories in played.values() for trajectory in trajectories])
    result = {"machine": machine, "load_before": load} | as_values(settings) | {"distinct": distinct, "rows": rows}
    keep("async_chunking", result, text)
    print(f"{text}\n\n{json.dumps(result)}")


if __name__ == "__main__":
    start(main, Settings, __doc__)
