"""Time of one action chunk of the default policy; profile_chunk.py runs this file on the code of other revisions too.

    python -P benchmarks/time_chunk.py <threads> <chunks> [settings of train.py ...]

Imports only what earlier revisions have: the packages of the revision on PYTHONPATH. Prints the median in ms.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any


def make_runner(overrides: list[str]) -> tuple[Any, dict[str, Any]]:
    """The default policy with random weights in its runner, and an observation."""
    import numpy as np
    import torch
    from lerobot.configs import FeatureType, PolicyFeature

    from configs.composing import as_dict, load_config
    from policies import PolicyRunner, make_processors
    from policies.factory import decode_policy_config
    from policies.tinyvla.modeling_tinyvla import TinyVLAPolicy

    torch.manual_seed(0)
    cfg = load_config("train", overrides)
    config = decode_policy_config(as_dict(cfg.policy), "cpu")
    size, cameras = cfg.env.image_size, [f"observation.images.{camera}" for camera in cfg.env.cameras]
    config.input_features = {camera: PolicyFeature(FeatureType.VISUAL, (3, size, size)) for camera in cameras}
    config.input_features["observation.state"] = PolicyFeature(FeatureType.STATE, (4,))
    config.output_features = {"action": PolicyFeature(FeatureType.ACTION, (4,))}
    policy = TinyVLAPolicy(config).eval()
    statistics_of = {"mean": np.zeros(4), "std": np.ones(4), "min": -np.ones(4), "max": np.ones(4)}
    processors = make_processors(policy, {"observation.state": statistics_of, "action": statistics_of})
    rng = np.random.default_rng(0)
    observation: dict[str, Any] = {camera: rng.integers(0, 256, (size, size, 3), np.uint8) for camera in cameras}
    observation |= {"observation.state": rng.normal(size=4), "task": "press the button from the top"}
    return PolicyRunner(policy, *processors), observation


def time_chunks(runner: Any, observation: dict[str, Any], chunks: int, clock: Callable[[], float]) -> list[float]:
    """Milliseconds from observation to first action of every chunk."""
    times = []
    for _ in range(chunks):
        runner.reset(0)
        start = clock()
        runner.act(observation)
        times.append((clock() - start) * 1e3)
    return times


def clock_of(threads: int) -> Callable[[], float]:
    """CPU time on one thread, which other programs hardly change; wall time on more."""
    return time.thread_time if threads == 1 else time.perf_counter


def main(threads: int, chunks: int, overrides: list[str]) -> None:
    import torch

    torch.set_num_threads(threads)
    runner, observation = make_runner(overrides)
    time_chunks(runner, observation, 5, clock_of(threads))
    times = time_chunks(runner, observation, chunks, clock_of(threads))
    print(json.dumps(round(statistics.median(times), 3)))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
