"""Where the time of one action chunk goes: the nano policy from raw observation to the first action, batch 1.

    uv run benchmarks/profile_chunk.py
    uv run benchmarks/profile_chunk.py --against HEAD~3    # the same chunk as an earlier revision computes it, in turns

Weights are random in the true shape. A stage's time is its own, without the stages inside it; what no stage accounts
for is "the rest". On one thread, as evaluation computes, its CPU time is what counts, which other programs hardly
change; on more it is wall time. The table and the figures are kept in benchmarks/results. The last line is one JSON
object.
"""

import argparse
import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.machine import Machine, keep, markdown

ROOT = Path(__file__).resolve().parents[1]
# Stage, and where its function is, seen from the runner. The network's own `forward` is what training calls.
STAGES = {
    "observation to tensors": ["_batch"],
    "pre-processing": ["preprocessor"],
    "tokens of the instruction": ["policy.model.backbone.tokenise", "policy.model.backbone.tokenizer.__call__"],
    "image encoding": ["policy.model.backbone.encode_images"],
    "language model": ["policy.model.backbone.language_model.forward"],
    "condition": ["policy.model.decoder.condition.forward"],
    "modulation of all steps": ["policy.model.decoder.network.modulate"],
    "denoising step": ["policy.model.decoder.network.forward", "policy.model.decoder.network.denoise"],
    "scheduler arithmetic": [
        *(f"policy.model.decoder.sampler.{name}" for name in ("set_timesteps", "scale_model_input", "step")),
    ],
    "post-processing": ["postprocessor"],
}


class Stopwatch:
    """Exclusive times of nested functions: a function's time is what passes in it and not in one inside it."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.ms: dict[str, list[float]] = defaultdict(list)
        self._inside: list[float] = []

    def watch(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function, assigned=())
        def watched(*args: Any, **kwargs: Any) -> Any:
            self._inside.append(0.0)
            start = self.clock()
            try:
                return function(*args, **kwargs)
            finally:
                spent = (self.clock() - start) * 1e3
                self.ms[stage].append(spent - self._inside.pop())
                if self._inside:
                    self._inside[-1] += spent

        return watched


def watch_runner(runner: Any, clock: Callable[[], float]) -> Stopwatch:
    """Put a stopwatch around every stage that this revision of the project has."""
    stopwatch = Stopwatch(clock)
    for stage, places in STAGES.items():
        for place in places:
            *path, name = place.split(".")
            owner = functools.reduce(lambda thing, part: getattr(thing, part, None), path, runner)
            if owner is None or not hasattr(owner, name):
                continue
            if name == "__call__":  # looked up on the class, so the object itself is replaced
                holder = functools.reduce(getattr, path[:-1], runner)
                setattr(holder, path[-1], stopwatch.watch(stage, owner))
            else:
                setattr(owner, name, stopwatch.watch(stage, getattr(owner, name)))
    return stopwatch


def make_runner(settings: list[str]) -> tuple[Any, dict[str, Any]]:
    """A nano policy with random weights in its runner, and an observation of two cameras."""
    import numpy as np
    import torch
    from lerobot.configs import FeatureType, PolicyFeature

    from configs.composing import as_dict, load_config
    from policies import PolicyRunner, make_processors
    from policies.factory import decode_policy_config
    from policies.tinyvla.modeling_tinyvla import TinyVLAPolicy

    torch.manual_seed(0)
    cfg = load_config("train", settings)
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


def profile(settings: list[str], chunks: int, clock: Callable[[], float]) -> dict[str, Any]:
    """Milliseconds of every stage of a chunk, medians over chunks; `plain_ms` is a chunk without stopwatches."""
    runner, observation = make_runner(settings)
    time_chunks(runner, observation, 5, clock)
    plain = statistics.median(time_chunks(runner, observation, chunks, clock))
    stopwatch = watch_runner(runner, clock)
    time_chunks(runner, observation, 3, clock)
    stopwatch.ms.clear()
    total = statistics.median(time_chunks(runner, observation, chunks, clock))
    rows: list[dict[str, Any]] = []
    for stage in STAGES:
        if times := stopwatch.ms.get(stage):
            calls = len(times) // chunks
            per_chunk = statistics.median(sum(times[i : i + calls]) for i in range(0, len(times), calls))
            rows.append({"stage": stage, "calls": calls, "ms": per_chunk, "ms_a_call": per_chunk / calls})
    rest = total - sum(row["ms"] for row in rows)
    rows.append({"stage": "the rest", "calls": 1, "ms": rest, "ms_a_call": rest})
    for row in rows:
        row |= {
            "ms": round(row["ms"], 3),
            "ms_a_call": round(row["ms_a_call"], 3),
            "share": round(row["ms"] / total, 3),
        }
    return {"plain_ms": round(plain, 2), "total_ms": round(total, 2), "stages": rows}


def compare(revision: str, settings: list[str], threads: int, chunks: int, rounds: int) -> dict[str, Any]:
    """The same chunk by this revision and by an earlier one, in turns, each in processes of its own."""
    times: dict[str, list[float]] = {"before": [], "after": []}
    with tempfile.TemporaryDirectory() as folder:
        archive = subprocess.run(["git", "archive", revision], cwd=ROOT, stdout=subprocess.PIPE, check=True)
        subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)
        for _ in range(rounds):
            for name, source in (("before", folder), ("after", str(ROOT))):
                command = [sys.executable, __file__, "--plain", "--threads", str(threads), "--chunks", str(chunks)]
                environment = os.environ | {"PYTHONPATH": source}
                result = subprocess.run(
                    [*command, *settings], env=environment, cwd=source, stdout=subprocess.PIPE, text=True, check=True
                )
                times[name].append(json.loads(result.stdout.splitlines()[-1]))
                print(f"{name}: {times[name][-1]:.2f} ms", file=sys.stderr, flush=True)
    before, after = (statistics.median(times[name]) for name in ("before", "after"))
    commit = subprocess.run(["git", "rev-parse", "--short", revision], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    return {
        "revision": commit.stdout.strip(),
        "before_ms": before,
        "after_ms": after,
        "ratio": round(before / after, 2),
    }


def main() -> None:
    machine = Machine()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", help="settings of train.py, as in decoder=flow")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: %(default)s)")
    parser.add_argument("--chunks", type=int, default=100, help="timed chunks")
    parser.add_argument("--against", metavar="REVISION", help="also time the chunk of an earlier revision")
    parser.add_argument("--rounds", type=int, default=5, help="turns that the two revisions take")
    parser.add_argument("--name", default="profile_chunk", help="of the files in benchmarks/results")
    parser.add_argument("--plain", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()

    import torch

    torch.set_num_threads(args.threads)
    clock = time.thread_time if args.threads == 1 else time.perf_counter
    if args.plain:
        runner, observation = make_runner(args.settings)
        time_chunks(runner, observation, 5, clock)
        print(json.dumps(round(statistics.median(time_chunks(runner, observation, args.chunks, clock)), 3)))
        return
    result = machine.describe(args.threads) | {"settings": args.settings} | profile(args.settings, args.chunks, clock)
    text = f"{machine.title(args.threads)}; median of {args.chunks} chunks; {' '.join(args.settings) or 'defaults'}\n\n"
    text += markdown(result["stages"], {"stage": "stage", "calls": "calls", "ms": "ms", "share": "share"})
    text += f"\n\n{result['total_ms']} ms a chunk, {result['plain_ms']} ms without the stopwatches."
    if args.against:
        result["against"] = compare(args.against, args.settings, args.threads, args.chunks, args.rounds)
        text += " Revision {revision}: {before_ms} ms, this one {after_ms} ms, ratio {ratio}.".format(
            **result["against"]
        )
    print(text + "\n")
    keep(args.name, result, text)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
