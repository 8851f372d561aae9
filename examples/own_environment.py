"""Check an environment of your own and record demonstrations in it: python examples/own_environment.py data.

The environment is that of the package in examples/tinyvla_example; install it first:
uv pip install --no-deps examples/tinyvla_example
"""

import sys
from pathlib import Path

from envs import decode_env, make_env, resolve_tasks
from envs.contract import check_env
from envs.demos import ensure_dataset
from envs.registry import embodiment_of


def main(data_dir: str, episodes: int = 2) -> None:
    env_cfg = decode_env({"name": "touch", "image_size": 64})

    # Every violation of the contract is one line of the error.
    env = make_env(env_cfg, "touch-red")
    check_env(env, embodiment_of(env_cfg.name))

    # One episode of the scripted expert.
    env.reset(seed=0)
    steps, ended, success = 0, False, False
    while not ended:
        _, terminated, truncated, info = env.apply(env.expert_action())
        steps, ended, success = steps + 1, terminated or truncated, info["success"]
    env.close()
    print(f"expert: {'success' if success else 'failure'} after {steps} steps")

    # Demonstrations as a LeRobotDataset, which train.py env=touch finds again.
    root = ensure_dataset(env_cfg, resolve_tasks(env_cfg), episodes, seed=0, data_dir=Path(data_dir))
    print(f"dataset: {root}")


if __name__ == "__main__":  # worker processes import this file
    main(sys.argv[1], *map(int, sys.argv[2:3]))
