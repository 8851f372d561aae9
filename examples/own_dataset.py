"""Train a policy on data of your own: python examples/own_dataset.py data/mine outputs/mine trainer.steps=200.

Further arguments are settings of train.py.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
from lerobot.datasets import LeRobotDataset

from policies import load_policy

FPS, SIZE, EPISODES, STEPS = 10, 64, 4, 20


def write_dataset(root: Path) -> None:
    """Write a LeRobotDataset: a white square that moves to the right, and the velocity that moves it."""
    vector = {"dtype": "float32", "shape": (2,), "names": ["x", "y"]}
    image = {"dtype": "video", "shape": (SIZE, SIZE, 3), "names": ["height", "width", "channels"]}
    features = {"observation.images.front": image, "observation.state": vector, "action": vector}
    dataset = LeRobotDataset.create(f"local/{root.name}", FPS, features, root=root, video_backend="pyav")
    for episode in range(EPISODES):
        for step in range(STEPS):
            x, y = 2 * step, 20 + episode
            frame = np.zeros((SIZE, SIZE, 3), np.uint8)
            frame[y : y + 10, x : x + 10] = 255
            dataset.add_frame(
                {
                    "observation.images.front": frame,
                    "observation.state": np.array([x / SIZE, y / SIZE], np.float32),
                    "action": np.array([2 / SIZE, 0], np.float32),
                    "task": "move the square to the right",
                }
            )
        dataset.save_episode()
    dataset.finalize()


def main(root: Path, run_dir: Path, settings: list[str]) -> None:
    write_dataset(root)

    # There is no environment for this data, so there are no validations and no evaluation.
    command = [sys.executable, "-m", "tinyvla_scripts.train", f"dataset.root={root}", f"run_dir={run_dir}"]
    subprocess.run([*command, "trainer.validate_every=0", "eval.episodes=0", *settings], check=True)

    policy = load_policy(run_dir)
    image = np.zeros((SIZE, SIZE, 3), np.uint8)
    state, instruction = np.zeros(2, np.float32), "move the square to the right"
    action = policy.act({"observation.images.front": image, "observation.state": state, "task": instruction})
    print("action:", action)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
