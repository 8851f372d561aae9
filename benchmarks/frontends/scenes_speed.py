"""How many labelled pictures a second the scene generator draws: tables and rooms, one worker process and several.

    uv run benchmarks/perception/scenes_speed.py
    uv run benchmarks/perception/scenes_speed.py --blocks 4 --turns 1       # a quick look

A turn has every setting draw --blocks blocks of 32 pictures, with their labels, depth and instances, one setting after
the other, so that whatever else the machine does hits all alike. The workers' start (imports, compiling the model, a
GL context) stands beside the rate as `start_s`: seconds until each worker has drawn its first block, which the rate
leaves out. Writes results/scenes_speed.json and .md.
"""

import argparse
import statistics
import sys
import time
from concurrent.futures import wait
from typing import Any

from benchmarks.machine import Machine, keep, markdown
from envs.scenes.image_store import BLOCK, ImageSet, draw_block
from envs.workers import worker_pool

TITLES = {
    "kind": "pictures",
    "workers": "workers",
    "per_s": "labelled pictures/s",
    "range": "of single turns",
    "start_s": "start, s",
}


def draw(kind: str, size: int, workers: int, blocks: int, turn: int) -> tuple[float, float]:
    """Pictures a second and seconds to start."""
    wanted = ImageSet(kind, "train", size, turn)
    with worker_pool(workers) as pool:
        start = time.perf_counter()
        # As many first blocks as workers: each is busy starting, so that none gets two.
        wait([pool.submit(draw_block, wanted, block) for block in range(workers)])
        started = time.perf_counter()
        for future in [pool.submit(draw_block, wanted, workers + block) for block in range(blocks)]:
            future.result()
        return blocks * BLOCK / (time.perf_counter() - started), started - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=128, help="side of a picture in pixels (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="worker processes beside one (default: %(default)s)")
    parser.add_argument("--blocks", type=int, default=16, help="of 32 pictures a turn (default: %(default)s)")
    parser.add_argument("--turns", type=int, default=3)
    args = parser.parse_args()

    machine = Machine()
    setting = machine.describe(threads=1)
    settings = [(kind, workers) for kind in ("table", "room") for workers in (1, args.workers)]
    drawn: dict[tuple[str, int], list[tuple[float, float]]] = {key: [] for key in settings}
    for turn in range(args.turns):
        for kind, workers in settings:
            drawn[kind, workers].append(draw(kind, args.size, workers, args.blocks, turn))
            rate, start = drawn[kind, workers][-1]
            print(f"turn {turn}: {kind}, workers={workers}: {rate:.1f}/s, start {start:.1f} s", file=sys.stderr)
    rows: list[dict[str, Any]] = []
    for (kind, workers), turns in drawn.items():
        rates, starts = zip(*turns, strict=True)
        spread = f"{min(rates):.1f}–{max(rates):.1f}"
        row = {"kind": f"{kind}s", "workers": workers, "per_s": round(statistics.median(rates), 1), "range": spread}
        rows.append(row | {"start_s": round(statistics.median(starts), 1)})
    note = f"{args.size} px, {args.turns} turns of {args.blocks * BLOCK} pictures each; medians."
    text = f"{machine.title(1)}; load before {setting['load_before']}\n\n{note}\n\n{markdown(rows, TITLES)}"
    keep("scenes_speed", {"rows": rows, "arguments": vars(args)} | setting, text)
    print(text)


if __name__ == "__main__":
    main()
