"""Training speed: samples/s, the share of time spent waiting for data, and the parts of a step.

    uv run python -m benchmarks.train_speed                                       # the default run
    uv run python -m benchmarks.train_speed overrides=[trainer.compile=true]     # settings of train.py
    uv run accelerate launch --num_processes 8 -m benchmarks.train_speed overrides=[preset=paper_s]

This is the loop of train.py on the demonstrations that train.py would use, or on `dataset.root=...`. The first window
of steps is warm-up: caches, and compilation if it is on. On a GPU, `synchronize=true` waits for the GPU after every
part, which separates the parts and slows the step down. Writes results/train_speed.json and .md; the last line is one
JSON object.
"""

import json
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import Machine, keep, markdown, peak_memory_mb, warn_if_busy
from benchmarks.settings import setting, start
from configs.composing import as_dict, load_config
from envs import decode_env, resolve_tasks
from envs.demos import ensure_dataset
from policies.training import check_settings, decode_run, find_dataset, train
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
    """Timer that keeps the seconds by part of every window of steps."""

    def __init__(self, synchronize: bool):
        self.windows: list[dict[str, float]] = []
        super().__init__(synchronize)

    def restart(self) -> None:
        if getattr(self, "seconds", None):
            self.windows.append(dict(self.seconds))
        super().restart()


@dataclass
class Settings:
    """Settings of the command line."""

    overrides: list[str] = setting([], "settings of train.py")
    steps: int = setting(200, "timed steps")
    window: int = setting(20, "steps per window; the first window is warm-up")
    synchronize: bool = setting(False, "wait for the GPU after every part")


def main(settings: Settings) -> None:
    load = round(os.getloadavg()[0], 2)
    with tempfile.TemporaryDirectory() as run_dir:
        run = [
            f"trainer.steps={settings.steps + settings.window}",
            f"trainer.log_every={settings.window}",
            f"run_dir={run_dir}",
        ]
        cfg = load_config(
            "train", [*settings.overrides, *run, "trainer.save_every=0", "trainer.validate_every=0", "logger=none"]
        )
        run_settings = decode_run(as_dict(cfg))
        check_settings(run_settings)
        accelerator = make_accelerator(cfg.device, cfg.trainer.bf16)
        env_cfg, first = decode_env(as_dict(cfg.env)), accelerator.is_main_process
        if first:
            warn_if_busy("the speed is too low")

        def collected() -> Path:
            return ensure_dataset(
                env_cfg, resolve_tasks(env_cfg), cfg.episodes, cfg.seed, Path(cfg.data_dir), cfg.workers
            )

        dataset = on_first_process(accelerator, lambda: find_dataset(run_settings, collected))
        recorder, began = Recorder(settings.synchronize), time.perf_counter()
        with Tracker(Path(run_dir), as_dict(cfg), enabled=first) as tracker:
            train(run_settings, dataset, accelerator, tracker, timer=recorder)
        if first:
            report(cfg, accelerator, recorder, settings, load, time.perf_counter() - began)


def report(cfg: Any, accelerator: Any, recorder: Recorder, settings: Settings, load: float, wall: float) -> None:
    """Write and print the table and the figures."""
    warm_up, timed = recorder.windows[0], recorder.windows[1:]
    seconds = {part: sum(window[part] for window in timed) for part in PARTS}
    total, steps = sum(seconds.values()), settings.window * len(timed)
    rate = steps * cfg.trainer.batch_size * accelerator.num_processes / total
    rates = [settings.window * cfg.trainer.batch_size * accelerator.num_processes / sum(w.values()) for w in timed]
    machine = Machine().name
    device = torch.cuda.get_device_name() if accelerator.device.type == "cuda" else accelerator.device.type
    title = (
        f"{machine}; {accelerator.num_processes} x {device}, {torch.get_num_threads()} threads; "
        f"batch {cfg.trainer.batch_size} per process; {steps} steps"
    )
    rows = [
        {"part": name, "ms": f"{seconds[part] / steps * 1e3:.2f}", "share": f"{seconds[part] / total:.1%}"}
        for part, name in PARTS.items()
    ]
    rows.append({"part": "all", "ms": f"{total / steps * 1e3:.2f}", "share": f"{rate:.0f} samples/s"})
    text = f"{title}\n\n{markdown(rows, {'part': 'part of a step', 'ms': 'ms', 'share': 'share'})}"
    figures = {
        "samples_per_s": round(rate, 1),
        "samples_per_s_range": [round(min(rates), 1), round(max(rates), 1)],
        "data_share": round(seconds["data"] / total, 4),
        "ms_a_step": {part: round(value / steps * 1e3, 3) for part, value in seconds.items()},
        "warm_up_s": round(sum(warm_up.values()), 1),
        "wall_s": round(wall, 1),
        "peak_memory_mb": round(peak_memory_mb(accelerator.device.type)),
    }
    conditions = {
        "machine": machine,
        "device": device,
        "processes": accelerator.num_processes,
        "threads": torch.get_num_threads(),
        "batch_size": cfg.trainer.batch_size,
        "steps": steps,
        "precision": accelerator.mixed_precision,
        "load_before": load,
        "settings": settings.overrides,
        "torch": torch.__version__,
    }
    keep("train_speed", figures | conditions, text)
    print(f"\n{text}\n\n{json.dumps(figures | conditions)}")


if __name__ == "__main__":
    start(main, Settings, __doc__)
