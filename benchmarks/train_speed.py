"""Training speed: samples/s, the share of time spent waiting for data, and what the rest of a step is made of.

    uv run benchmarks/train_speed.py                                       # the default run
    uv run benchmarks/train_speed.py trainer.compile=true                  # any settings of train.py
    uv run accelerate launch --num_processes 8 benchmarks/train_speed.py preset=paper_s backbone.pretrained=null

It is train.py's own loop on the demonstrations that train.py would use, or on `dataset.root=...`. The first window of
steps is warm-up: caches, and compilation if there is any. On a GPU, --parts waits for the GPU after every part, which
tells the parts apart and slows the whole down. The last line is one JSON object.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.inference import peak_memory_mb
from benchmarks.machine import Machine
from configs.composing import as_dict, load_config
from envs import decode_env, resolve_tasks
from envs.demos import ensure_dataset
from policies.data import find_dataset
from policies.training import train
from policies.training.settings import check_settings
from tinyvla.training import Tracker, make_accelerator, on_first_process
from tinyvla.training.timing import StepTimer

PARTS = {
    "data": "waiting for data",
    "preprocess": "pre-processing, to the device",
    "forward": "forward",
    "backward": "backward",
    "optimizer": "clipping and optimizer",
    "averaging": "averaged weights",
}


class Recorder(StepTimer):
    """Keeps what each window of steps took."""

    def __init__(self, synchronize: bool):
        self.windows: list[dict[str, float]] = []
        super().__init__(synchronize)

    def restart(self) -> None:
        if getattr(self, "seconds", None):
            self.windows.append(dict(self.seconds))
        super().restart()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", help="settings of train.py")
    parser.add_argument("--steps", type=int, default=200, help="timed steps (default: %(default)s)")
    parser.add_argument("--window", type=int, default=20, help="steps of a window; one is warm-up")
    parser.add_argument("--parts", action="store_true", help="wait for the GPU after every part")
    args = parser.parse_args()
    busy = os.getloadavg()[0]

    with tempfile.TemporaryDirectory() as run_dir:
        own = [f"trainer.steps={args.steps + args.window}", f"trainer.log_every={args.window}", f"run_dir={run_dir}"]
        cfg = load_config(
            "train", [*args.settings, *own, "trainer.save_every=0", "trainer.validate_every=0", "logger=none"]
        )
        check_settings(cfg)
        accelerator = make_accelerator(cfg.device, cfg.trainer.bf16)
        env_cfg, first = decode_env(as_dict(cfg.env)), accelerator.is_main_process
        if first and busy > 0.5:
            print(f"other programs keep {busy:.1f} cores busy: the figures will be too low", file=sys.stderr)

        def collected() -> Path:
            return ensure_dataset(
                env_cfg, resolve_tasks(env_cfg), cfg.episodes, cfg.seed, Path(cfg.data_dir), cfg.workers
            )

        dataset = on_first_process(accelerator, lambda: find_dataset(cfg, collected))
        recorder, began = Recorder(args.parts), time.perf_counter()
        with Tracker(Path(run_dir), as_dict(cfg), enabled=first) as tracker:
            train(cfg, dataset, accelerator, tracker, timer=recorder)
        if first:
            report(cfg, accelerator, recorder, args, busy, time.perf_counter() - began)


def report(cfg: Any, accelerator: Any, recorder: Recorder, args: Any, busy: float, wall: float) -> None:
    """Print the table and the JSON object."""
    warm_up, timed = recorder.windows[0], recorder.windows[1:]
    seconds = {part: sum(window[part] for window in timed) for part in PARTS}
    total, steps = sum(seconds.values()), args.window * len(timed)
    rate = steps * cfg.trainer.batch_size * accelerator.num_processes / total
    rates = [args.window * cfg.trainer.batch_size * accelerator.num_processes / sum(w.values()) for w in timed]
    machine = Machine().name
    device = torch.cuda.get_device_name() if accelerator.device.type == "cuda" else accelerator.device.type
    print(
        f"\n{machine}; {accelerator.num_processes} x {device}, {torch.get_num_threads()} threads; "
        f"batch {cfg.trainer.batch_size} a process; {steps} steps\n"
    )
    print("| part of a step | ms | share |\n|---|---|---|")
    for part, what in PARTS.items():
        print(f"| {what} | {seconds[part] / steps * 1e3:.2f} | {seconds[part] / total:.1%} |")
    print(f"| all | {total / steps * 1e3:.2f} | {rate:.0f} samples/s |\n")
    figures = {
        "samples_per_s": round(rate, 1),
        "samples_per_s_range": [round(min(rates), 1), round(max(rates), 1)],
        "data_share": round(seconds["data"] / total, 4),
        "ms_a_step": {part: round(value / steps * 1e3, 3) for part, value in seconds.items()},
        "warm_up_s": round(sum(warm_up.values()), 1),
        "wall_s": round(wall, 1),
        "peak_memory_mb": round(peak_memory_mb(accelerator.device.type)),
    }
    setting = {
        "machine": machine,
        "device": device,
        "processes": accelerator.num_processes,
        "threads": torch.get_num_threads(),
        "batch_size": cfg.trainer.batch_size,
        "steps": steps,
        "precision": accelerator.mixed_precision,
        "load_before": round(busy, 2),
        "settings": args.settings,
        "torch": torch.__version__,
    }
    print(json.dumps(figures | setting))


if __name__ == "__main__":
    main()
