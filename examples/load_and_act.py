"""Load a policy, act on an observation, measure the success rate: python examples/load_and_act.py outputs/<run>."""

import sys

import numpy as np

from envs import evaluate
from policies import load_policy


def main(checkpoint: str, env: str = "metaworld", task: str = "reach-v3", episodes: int = 10) -> None:
    policy = load_policy(checkpoint)

    # An observation has one image per camera, the proprioception, and the instruction.
    observation = {
        f"observation.images.{camera}": np.zeros((height, width, 3), np.uint8)
        for camera, (height, width) in policy.cameras.items()
    }
    observation["observation.state"] = np.zeros(policy.state_size, np.float32)
    observation["task"] = "reach the goal position"
    policy.reset(seed=0)
    print("action:", policy.act(observation))

    result = evaluate(policy, env, tasks=[task], episodes=episodes)
    low, high = result["ci95"]
    print(f"success rate on {task}: {result['success_rate']:.2f} (95% interval {low:.2f} to {high:.2f})")


if __name__ == "__main__":  # worker processes import this file
    main(*sys.argv[1:4], *map(int, sys.argv[4:5]))
