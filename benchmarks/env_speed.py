"""Environment steps per second in one process, with one image per step: ours (fast) beside LeRobot's Meta-World.

    uv run python -m benchmarks.env_speed

LeRobot's environment renders as it always does, but at our size: with any setting its images have 480 pixels a side,
which would be slower still. The two take turns, so that other load affects both. Resets are not timed. Writes
results/env_speed.json and .md; the last line is one JSON object.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.machine import Machine, keep, markdown, versions, warn_if_busy
from benchmarks.settings import as_values, setting, start
from envs import decode_env, make_env

CAMERA = "corner2"


def our_env(task: str, size: int) -> Any:
    """Our environment with its default renderer."""
    return make_env(decode_env({"name": "metaworld", "cameras": [CAMERA], "image_size": size}), task)


def lerobot_env(task: str, size: int) -> Any:
    """LeRobot's environment with its own renderer, at our size."""
    from lerobot.envs.metaworld import MetaworldEnv  # imports mujoco, so only after ours has chosen the GL backend

    env = MetaworldEnv(task, CAMERA, "pixels_agent_pos", observation_width=size, observation_height=size)
    env._ensure_env()
    env._env.mujoco_renderer.width = env._env.mujoco_renderer.height = size
    return env


def seconds_of(env: Any, image_of: Callable[[Any], np.ndarray], size: int, seed: int, steps: int) -> float:
    """Seconds of `steps` steps with random actions, each with its observation."""
    observation, _ = env.reset(seed=seed)
    if image_of(observation).shape != (size, size, 3):
        raise SystemExit(f"the image has shape {image_of(observation).shape}, so the comparison would not be fair")
    actions = np.random.default_rng(seed).uniform(-1, 1, (steps, 4)).astype(np.float32)
    start = time.perf_counter()
    for action in actions:
        _, _, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            raise SystemExit("an episode ended within a block; use fewer steps=... or another task=...")
    return time.perf_counter() - start


@dataclass
class Settings:
    """Settings of the command line."""

    task: str = setting("drawer-open-v3", "task of both environments")
    size: int = setting(128, "side of the image in pixels")
    blocks: int = setting(8, "turns of each environment")
    steps: int = setting(50, "steps of a turn, at most 499")


def main(settings: Settings) -> None:
    load = warn_if_busy("the rates are too low")
    ours, theirs = our_env(settings.task, settings.size), lerobot_env(settings.task, settings.size)
    seconds: list[tuple[float, float]] = []
    for block in range(settings.blocks + 1):  # the first is warm-up
        ours_s = seconds_of(ours, lambda o: o[f"observation.images.{CAMERA}"], settings.size, block, settings.steps)
        # Gymnasium's renderer uses the current GL context, and ours has just made another one current.
        if viewer := theirs._env.mujoco_renderer.viewer:
            viewer.make_context_current()
        theirs_s = seconds_of(theirs, lambda o: o["pixels"], settings.size, block, settings.steps)
        seconds.append((ours_s, theirs_s))
        rates = " and ".join(f"{settings.steps / s:.1f}" for s in seconds[-1])
        print(f"turn {block} of {settings.blocks}: {rates} steps/s", file=sys.stderr, flush=True)
    ours.close()
    theirs.close()

    total = np.array(seconds[1:])
    ours_rate, theirs_rate = (settings.blocks * settings.steps / total.sum(axis=0)).tolist()
    ratios = total[:, 1] / total[:, 0]
    machine = Machine().summary
    turns = f"{settings.blocks} x {settings.steps} steps each"
    title = f"{machine}; {settings.task}, one {settings.size}-px camera, {turns}"
    rows = [
        {"environment": name, "rate": f"{rate:.1f}"}
        for name, rate in (("ours, fast", ours_rate), ("LeRobot's", theirs_rate))
    ]
    text = f"{title}\n\n{markdown(rows, {'environment': 'environment', 'rate': 'steps/s'})}"
    figures = {
        "steps_per_s": round(ours_rate, 1),
        "lerobot_steps_per_s": round(theirs_rate, 1),
        "ratio": round(ours_rate / theirs_rate, 2),
        "ratio_range": [round(ratios.min(), 2), round(ratios.max(), 2)],
    }
    conditions = {"machine": machine, "load_before": load, "gl": os.environ.get("MUJOCO_GL", "")}
    packages = {"versions": versions("lerobot", "metaworld", "mujoco", "gymnasium")}
    result = figures | conditions | as_values(settings) | packages
    keep("env_speed", result, text)
    print(f"{text}\n\n{json.dumps(result)}")


if __name__ == "__main__":
    start(main, Settings, __doc__)
