"""Time of one action chunk by stage: the default policy from raw observation to the first action, batch 1.

    uv run python -m benchmarks.profile_chunk
    uv run python -m benchmarks.profile_chunk against=HEAD~3    # an earlier revision too, in turns

Weights are random in the true shape. The time of a stage excludes the stages inside it; "the rest" belongs to no stage.
On one thread, as in evaluation, times are CPU time, which other programs hardly change; on more they are wall time. The
table and the figures are kept in benchmarks/results. The last line is one JSON object.
"""

import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.machine import ROOT, Machine, keep, markdown
from benchmarks.settings import setting, start
from benchmarks.time_chunk import clock_of, make_runner, time_chunks

TIME_CHUNK = str(ROOT / "benchmarks" / "time_chunk.py")
# Functions of every stage, as attributes of the runner. Training calls the network's own `forward`.
STAGES = {
    "observation to tensors": ["_batch"],
    "pre-processing": ["preprocessor"],
    "tokens of the instruction": ["policy.model.backbone.tokenise", "policy.model.backbone.tokenizer.__call__"],
    "image encoding": ["policy.model.backbone.encode_images"],
    "images and instruction": ["policy.model.backbone.encode"],
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
    """Exclusive times of nested functions: time in a function without the watched functions that it calls."""

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
    """Put a stopwatch around every stage of the runner."""
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


def profile(overrides: list[str], chunks: int, clock: Callable[[], float]) -> dict[str, Any]:
    """Milliseconds of every stage of a chunk, medians over chunks; `plain_ms` is a chunk without stopwatches."""
    runner, observation = make_runner(overrides)
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


def compare(revision: str, overrides: list[str], threads: int, chunks: int, rounds: int) -> dict[str, Any]:
    """Times of the same chunk by this revision and by an earlier one, in turns, in separate processes."""
    times: dict[str, list[float]] = {"before": [], "after": []}
    with tempfile.TemporaryDirectory() as folder:
        archive = subprocess.run(["git", "archive", revision], cwd=ROOT, stdout=subprocess.PIPE, check=True)
        subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)
        for _ in range(rounds):
            for name, source in (("before", folder), ("after", str(ROOT))):
                command = [sys.executable, "-P", TIME_CHUNK, str(threads), str(chunks)]
                environment = os.environ | {"PYTHONPATH": source}
                result = subprocess.run(
                    [*command, *overrides], env=environment, cwd=source, stdout=subprocess.PIPE, text=True, check=True
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


@dataclass
class Settings:
    """Settings of the command line."""

    overrides: list[str] = setting([], "settings of train.py, such as [decoder=flow]")
    threads: int = setting(1, "CPU threads")
    chunks: int = setting(100, "timed chunks")
    against: str | None = setting(None, "earlier revision to time too")
    rounds: int = setting(5, "turns of the two revisions")
    name: str = setting("profile_chunk", "name of the files in benchmarks/results")


def main(settings: Settings) -> None:
    machine = Machine()

    import torch

    torch.set_num_threads(settings.threads)
    stages = profile(settings.overrides, settings.chunks, clock_of(settings.threads))
    result = machine.describe(settings.threads) | {"settings": settings.overrides} | stages
    title = f"{machine.title(settings.threads)}; median of {settings.chunks} chunks"
    text = f"{title}; {' '.join(settings.overrides) or 'defaults'}\n\n"
    text += markdown(result["stages"], {"stage": "stage", "calls": "calls", "ms": "ms", "share": "share"})
    text += f"\n\n{result['total_ms']} ms per chunk, {result['plain_ms']} ms without the stopwatches."
    if settings.against:
        result["against"] = compare(
            settings.against, settings.overrides, settings.threads, settings.chunks, settings.rounds
        )
        text += " Revision {revision}: {before_ms} ms, this one {after_ms} ms, ratio {ratio}.".format(
            **result["against"]
        )
    print(text + "\n")
    keep(settings.name, result, text)
    print(json.dumps(result))


if __name__ == "__main__":
    start(main, Settings, __doc__)
