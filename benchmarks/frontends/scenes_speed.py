"""Labelled images per second of the scene generator: tables and rooms, one worker process and several.

    uv run python -m benchmarks.frontends.scenes_speed
    uv run python -m benchmarks.frontends.scenes_speed blocks=4 turns=1       # a quick look

In a turn every case renders `blocks` blocks of 32 images with their labels, depth and instances, one case after the
other, so that other load affects all alike. The start of the workers (imports, compiling the model, a GL context) is
listed as `start_s`: seconds until every worker has rendered its first block, which is not part of the rate. Writes
results/scenes_speed.json and .md.
"""

import statistics
import sys
import time
from concurrent.futures import wait
from dataclasses import dataclass
from typing import Any

from benchmarks.machine import Machine, keep, markdown
from benchmarks.settings import as_values, setting, start
from envs.scenes.image_store import BLOCK, ImageSet, draw_block
from envs.workers import worker_pool

TITLES = {
    "kind": "images",
    "workers": "workers",
    "per_s": "labelled images/s",
    "range": "of single turns",
    "start_s": "start, s",
}


def draw(kind: str, size: int, workers: int, blocks: int, turn: int) -> tuple[float, float]:
    """Images per second and seconds to start."""
    images = ImageSet(kind, "train", size, turn)
    with worker_pool(workers) as pool:
        start = time.perf_counter()
        # As many first blocks as workers: each is busy starting, so that none gets two.
        wait([pool.submit(draw_block, images, block) for block in range(workers)])
        started = time.perf_counter()
        for future in [pool.submit(draw_block, images, workers + block) for block in range(blocks)]:
            future.result()
        return blocks * BLOCK / (time.perf_counter() - started), started - start


@dataclass
class Settings:
    """Settings of the command line."""

    size: int = setting(128, "side of an image in pixels")
    workers: int = setting(2, "worker processes of the second case")
    blocks: int = setting(16, "blocks of 32 images per turn")
    turns: int = setting(3, "turns per case")


def main(settings: Settings) -> None:

    machine = Machine()
    conditions = machine.describe(threads=1)
    cases = [(kind, workers) for kind in ("table", "room") for workers in (1, settings.workers)]
    drawn: dict[tuple[str, int], list[tuple[float, float]]] = {key: [] for key in cases}
    for turn in range(settings.turns):
        for kind, workers in cases:
            drawn[kind, workers].append(draw(kind, settings.size, workers, settings.blocks, turn))
            rate, start = drawn[kind, workers][-1]
            print(f"turn {turn}: {kind}, workers={workers}: {rate:.1f}/s, start {start:.1f} s", file=sys.stderr)
    rows: list[dict[str, Any]] = []
    for (kind, workers), turns in drawn.items():
        rates, starts = zip(*turns, strict=True)
        spread = f"{min(rates):.1f}–{max(rates):.1f}"
        row = {"kind": f"{kind}s", "workers": workers, "per_s": round(statistics.median(rates), 1), "range": spread}
        rows.append(row | {"start_s": round(statistics.median(starts), 1)})
    note = f"{settings.size} px, {settings.turns} turns of {settings.blocks * BLOCK} images each; medians."
    text = f"{machine.title(1)}; load before {conditions['load_before']}\n\n{note}\n\n{markdown(rows, TITLES)}"
    keep("scenes_speed", {"rows": rows, "arguments": as_values(settings)} | conditions, text)
    print(text)


if __name__ == "__main__":
    start(main, Settings, __doc__)
