"""Environment steps a second, one process, one camera, a picture every step: ours (fast) beside LeRobot's Meta-World.

    uv run benchmarks/env_speed.py

LeRobot's environment draws as it always does, but at our size: whatever size it is asked for, its pictures have 480
pixels a side, which would be slower still. The two take turns, so that whatever else the machine does hits both.
Resetting is not timed. The last line is one JSON object.
"""

import argparse
import importlib.metadata
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.machine import Machine
from envs import decode_env, make_env

CAMERA = "corner2"


def our_env(task: str, size: int) -> Any:
    """Our environment, drawing as it does by default."""
    return make_env(decode_env({"name": "metaworld", "cameras": [CAMERA], "image_size": size}), task)


def lerobot_env(task: str, size: int) -> Any:
    """LeRobot's environment with its own drawing, at our size."""
    from lerobot.envs.metaworld import MetaworldEnv  # imports mujoco, so only after ours has chosen the GL backend

    env = MetaworldEnv(task, CAMERA, "pixels_agent_pos", observation_width=size, observation_height=size)
    env._ensure_env()
    env._env.mujoco_renderer.width = env._env.mujoco_renderer.height = size
    return env


def seconds_of(env: Any, picture: Callable[[Any], np.ndarray], size: int, seed: int, steps: int) -> float:
    """Seconds that `steps` steps with random actions take, each with its observation."""
    observation, _ = env.reset(seed=seed)
    if picture(observation).shape != (size, size, 3):
        raise SystemExit(f"the picture has shape {picture(observation).shape}, so the comparison would not be fair")
    actions = np.random.default_rng(seed).uniform(-1, 1, (steps, 4)).astype(np.float32)
    start = time.perf_counter()
    for action in actions:
        _, _, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            raise SystemExit("an episode ended within a block; use fewer --steps or another --task")
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="drawer-open-v3")
    parser.add_argument("--size", type=int, default=128, help="side of the picture in pixels (default: %(default)s)")
    parser.add_argument("--blocks", type=int, default=8, help="turns of each environment")
    parser.add_argument("--steps", type=int, default=50, help="steps of a turn, at most 499")
    args = parser.parse_args()

    busy = os.getloadavg()[0]
    if busy > 0.5:
        print(f"other programs keep {busy:.1f} cores busy: the figures will be too low", file=sys.stderr)
    ours, theirs = our_env(args.task, args.size), lerobot_env(args.task, args.size)
    seconds: list[tuple[float, float]] = []
    for block in range(args.blocks + 1):  # the first is warm-up
        ours_s = seconds_of(ours, lambda o: o[f"observation.images.{CAMERA}"], args.size, block, args.steps)
        # Gymnasium's renderer takes the current GL context for its own; ours has just made another one current.
        if viewer := theirs._env.mujoco_renderer.viewer:
            viewer.make_context_current()
        theirs_s = seconds_of(theirs, lambda o: o["pixels"], args.size, block, args.steps)
        seconds.append((ours_s, theirs_s))
        rates = " and ".join(f"{args.steps / s:.1f}" for s in seconds[-1])
        print(f"turn {block} of {args.blocks}: {rates} steps/s", file=sys.stderr, flush=True)
    ours.close()
    theirs.close()

    total = np.array(seconds[1:])
    ours_rate, theirs_rate = (args.blocks * args.steps / total.sum(axis=0)).tolist()
    ratios = total[:, 1] / total[:, 0]
    machine = Machine().summary
    print(f"{machine}; {args.task}, one {args.size}-px camera, {args.blocks} x {args.steps} steps each\n")
    print(f"| environment | steps/s |\n|---|---|\n| ours, fast | {ours_rate:.1f} |")
    print(f"| LeRobot's | {theirs_rate:.1f} |\n")
    figures = {
        "steps_per_s": round(ours_rate, 1),
        "lerobot_steps_per_s": round(theirs_rate, 1),
        "ratio": round(ours_rate / theirs_rate, 2),
        "ratio_range": [round(ratios.min(), 2), round(ratios.max(), 2)],
    }
    setting = {"machine": machine, "load_before": round(busy, 2), "gl": os.environ.get("MUJOCO_GL", "")} | vars(args)
    versions = {name: importlib.metadata.version(name) for name in ("lerobot", "metaworld", "mujoco", "gymnasium")}
    print(json.dumps(figures | setting | {"versions": versions}))


if __name__ == "__main__":
    main()
