"""One demonstration: an episode of a scripted expert, and its file.

Some episodes have noise as in DART (Laskey et al., arXiv 1703.09327): bursts of a constant random offset are added to
the action that is *applied*, so that the hand leaves the expert's path. The action that is *recorded* is the expert's.
A policy therefore sees recoveries, and does not learn the noise.
"""

import io
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tinyvla.files import write_whole

from ..contract import EnvConfig
from ..registry import make_env
from ..seeds import episode_seed

_BURST_START = 0.05  # probability per step that a burst of noise begins
_BURST_STEPS = (5, 25)


class Demo(NamedTuple):
    """A successful episode of T steps: images {camera: uint8 (T, S, S, 3)}, state (T, D), action (T, A), text."""

    images: dict[str, np.ndarray]
    state: np.ndarray
    action: np.ndarray
    instruction: str


def is_noisy(attempt: int, share: float) -> bool:
    """True for attempts with noise: evenly spread, a `share` of all attempts."""
    return int((attempt + 1) * share) > int(attempt * share)


class Attempt(NamedTuple):
    """Actions of a successful episode of T steps: the expert's, clipped, and the applied ones, (T, A) each."""

    expert: list[np.ndarray]
    applied: list[np.ndarray]


def play_expert(env: Any, env_seed: int, noise_std: float, rng: np.random.Generator, linger: int) -> Attempt | None:
    """Play one episode of the expert without rendering, until `linger` steps after success; None without success."""
    env.reset(seed=env_seed)
    attempt = Attempt([], [])
    burst, done = 0, False
    size = env.action_space.shape[0]
    arm = size if env.unwrapped.arm_actions is None else env.unwrapped.arm_actions  # noise never moves the gripper
    offset: np.ndarray = np.zeros(arm)
    while True:
        expert = env.expert_action().clip(env.action_space.low, env.action_space.high)
        applied = expert.copy()
        if noise_std > 0:
            if burst == 0 and rng.random() < _BURST_START:
                burst, offset = int(rng.integers(*_BURST_STEPS)), rng.normal(0.0, noise_std, arm)
            if burst > 0:
                applied[:arm] += offset
                burst -= 1
        attempt.expert.append(expert)
        attempt.applied.append(applied)
        _, terminated, truncated, info = env.apply(applied)
        done |= info["success"]
        if done and linger == 0:
            return attempt
        if done:
            linger -= 1
        elif terminated or truncated:
            return None


def record_demo(env: Any, env_seed: int, noise_std: float, rng: np.random.Generator, linger: int = 0) -> Demo | None:
    """One episode of the expert, until `linger` control steps after its first success; None without success.

    It is played twice, because rendering takes ten times as long as the physics and attempts with noise often fail:
    the second time, after a success, with images. The recorded action is the expert's, clipped to the action space.
    """
    attempt = play_expert(env, env_seed, noise_std, rng, linger)
    if attempt is None:
        return None
    observation, _ = env.reset(seed=env_seed)
    observations = [observation]
    for action in attempt.applied[:-1]:
        env.apply(action)
        observations.append(env.observe())
    return Demo(
        images={
            key.rsplit(".", 1)[1]: np.stack([observation[key] for observation in observations])
            for key in observation
            if key.startswith("observation.images.")
        },
        state=np.stack([observation["observation.state"] for observation in observations]),
        action=np.stack(attempt.expert).astype(np.float32),
        instruction=env.instruction,
    )


def collect_attempt(env_cfg: EnvConfig, task: str, seed: int, attempt: int) -> bytes | None:
    """Play one attempt of a task, a pure function of the arguments; returns its file's content, None if it failed."""
    env = _cached_env(env_cfg, task)
    rng = np.random.default_rng([seed, attempt, zlib.crc32(task.encode())])
    noise_std = env_cfg.noise.std if is_noisy(attempt, env_cfg.noise.share) else 0.0
    demo = record_demo(env, episode_seed("train", seed, attempt), noise_std, rng, env_cfg.linger)
    return None if demo is None else encode_demo(demo)


_ENVS: dict[str, Any] = {}  # the last task's environment in this worker process


def _cached_env(env_cfg: EnvConfig, task: str) -> Any:
    key = repr((task, env_cfg))
    if key not in _ENVS:
        for env in _ENVS.values():
            env.close()
        _ENVS.clear()
        _ENVS[key] = make_env(env_cfg, task)
    return _ENVS[key]


def attempt_path(folder: Path, attempt: int, success: bool) -> Path:
    """File of an attempt: its frames, or an empty marker of a failure."""
    return folder / f"{attempt:05d}.{'npz' if success else 'failed'}"


def encode_demo(demo: Demo) -> bytes:
    """Content of a compressed npz file of a demonstration, for `read_demo`."""
    arrays: dict[str, Any] = {"state": demo.state, "action": demo.action, "text": demo.instruction}
    arrays |= {f"images.{camera}": frames for camera, frames in demo.images.items()}
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def write_attempt(folder: Path, attempt: int, content: bytes | None) -> None:
    """Store the result of `collect_attempt`, whole or not at all."""
    write_whole(attempt_path(folder, attempt, content is not None), content or b"")


def read_demo(path: Path) -> Demo:
    """Read a stored demonstration. Raises ValueError, OSError, KeyError or zipfile.BadZipFile on a damaged file."""
    with np.load(path) as data:
        images = {key.removeprefix("images."): data[key] for key in data.files if key.startswith("images.")}
        return Demo(images, data["state"], data["action"], str(data["text"]))
