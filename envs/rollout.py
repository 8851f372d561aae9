"""One closed-loop episode of a policy in an environment."""

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import imageio.v3 as iio
import numpy as np

from policies import PolicyRunner

_VIDEO_HZ = 20


class Rollout(NamedTuple):
    """How an episode went.

    seed: the environment's; the policy's random draws follow from it too. steps: control steps until success or the
    limit. action_ms: wall time of every action, from the observation's arrival to the command, in milliseconds.
    """

    seed: int
    success: bool
    steps: int
    action_ms: np.ndarray


def roll_out(
    env: Any, runner: PolicyRunner, seed: int, instruction: str | None = None, video: Path | None = None
) -> Rollout:
    """Run one episode, a pure function of environment, policy, seed and instruction.

    The environment is looked at only when the policy wants to see it: executing a chunk of actions costs no rendering.

    Args:
        env: one of `envs.make_env`.
        seed: seeds the environment and the policy.
        instruction: what the policy is told; None: the environment's own instruction.
        video: file to write an MP4 of the episode to.
    """
    observation, _ = env.reset(seed=seed)
    runner.reset(seed)
    every = max(1, round(env.metadata["render_fps"] / _VIDEO_HZ))
    frames: list[np.ndarray] = []
    times: list[float] = []
    done = success = False
    while not done:
        if video and len(times) % every == 0:
            frames.append(env.render())
        if runner.needs_observation:
            observation = env.observe() if times else observation
            if instruction is not None:
                observation["task"] = instruction
        start = time.perf_counter()
        action = runner.act(observation if runner.needs_observation else None)
        times.append(time.perf_counter() - start)
        _, terminated, truncated, info = env.apply(action)
        done, success = terminated or truncated, info["success"]
    if video:
        frames.append(env.render())
        write_video(video, frames)
    return Rollout(seed, success, len(times), np.array(times) * 1e3)


def write_video(path: Path, frames: Iterable[np.ndarray]) -> None:
    """Write frames, uint8 (H, W, 3), as an MP4 that browsers play, each as it comes; an odd side loses a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with iio.imopen(path, "w", plugin="pyav") as video:
        video.init_video_stream("libx264", fps=_VIDEO_HZ, pixel_format="yuv420p")
        for frame in frames:
            height, width = (side - side % 2 for side in frame.shape[:2])
            video.write_frame(frame[:height, :width])
