"""Rollout: one closed-loop episode of a policy in an environment."""

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import imageio.v3 as iio
import numpy as np

from policies import Runner

VIDEO_HZ = 20


class Rollout(NamedTuple):
    """Result of an episode.

    seed: the environment's; the policy's random draws follow from it too. steps: control steps until success or the
    limit. action_ms: wall time per action in milliseconds, from the arrival of the observation to the command.
    """

    seed: int
    success: bool
    steps: int
    action_ms: np.ndarray


def roll_out(env: Any, runner: Runner, seed: int, instruction: str | None = None, video: Path | None = None) -> Rollout:
    """Play one episode, a pure function of environment, policy, seed and instruction.

    Observations are only rendered when the policy needs one: executing a chunk of actions costs no rendering.

    Args:
        env: an environment of `envs.make_env`.
        runner: the policy.
        seed: seeds the environment and the policy.
        instruction: instruction for the policy; None: the environment's own.
        video: file for an MP4 of the episode; None: no video.
    """
    observation, _ = env.reset(seed=seed)
    runner.reset(seed)
    every = max(1, round(env.metadata["render_fps"] / VIDEO_HZ))
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
        done, success = terminated or truncated, bool(info["success"])
    if video:
        frames.append(env.render())
        write_video(video, frames)
    return Rollout(seed, success, len(times), np.array(times) * 1e3)


def write_video(path: Path, frames: Iterable[np.ndarray], fps: float = VIDEO_HZ) -> None:
    """Write frames, uint8 (H, W, 3), as an MP4 that browsers play. An odd height or width loses one line of pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with iio.imopen(path, "w", plugin="pyav") as video:
        video.init_video_stream("libx264", fps=fps, pixel_format="yuv420p")
        for frame in frames:
            height, width = (side - side % 2 for side in frame.shape[:2])
            video.write_frame(frame[:height, :width])
