"""Training without checkpoints, runs side by side and intervals, for the benchmarks of classifiers."""

import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np


def options(task: str, **changes: Any) -> dict[str, Any]:
    """Options of a task as its trainable takes them, with `changes`; `trainer` is one of them."""
    from configs.composing import as_dict, load_config

    cfg = load_config("train", [f"task=perception/{task}", *(["task.teacher=none"] if task == "tinyvit" else [])])
    task_options = as_dict(cfg.task) | {"trainer": as_dict(cfg.trainer)}
    task_options["trainer"] |= changes.pop("trainer", {})
    return task_options | changes


def train(trainable: Any, settings: dict[str, Any], seed: int) -> dict[str, float]:
    """Train as the training loop does, on one thread and with nothing else; returns seconds by part of a step."""
    import torch
    from torch.nn.utils import clip_grad_norm_

    from tinyvla.training.optimizer import make_schedule
    from tinyvla.training.trainable import step_seed

    torch.set_num_threads(1)
    module = trainable.module.train()
    optimizer = trainable.make_optimizer(settings["lr"], settings["weight_decay"])
    schedule = make_schedule(optimizer, settings["steps"], settings["warmup_ratio"])
    trainable.start(0)
    spent = {"data": 0.0, "compute": 0.0}
    for step in range(settings["steps"]):
        start = time.perf_counter()
        batch = trainable.prepare(trainable.batch(step))
        middle = time.perf_counter()
        torch.manual_seed(step_seed(seed, step))
        loss, _ = module(batch)
        loss.backward()
        clip_grad_norm_(module.parameters(), settings["grad_clip"])
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        spent["data"] += middle - start
        spent["compute"] += time.perf_counter() - middle
    return spent


def open_data(source: str, scenes: int, test_scenes: int, data_dir: str) -> dict[str, Any]:
    """Labelled images by split for the source `objects`, nothing for other sources."""
    if source != "objects":
        return {}
    from envs.scenes import open_labelled_images

    counts = {"train": scenes, "validation": 50, "test": test_scenes}
    return {
        split: open_labelled_images("table", split, count, data_dir=Path(data_dir)) for split, count in counts.items()
    }


def correct(trainable: Any) -> list[int]:
    """Indices of the test images that a trained classifier classifies correctly."""
    from tinyvla.frontends.cct.metrics import predict

    images = trainable.test_images()
    logits = predict(trainable.module.classifier, images, range(len(images)))
    return np.flatnonzero(logits.argmax(-1).numpy() == images.labels).tolist()


def side_by_side(jobs: Iterable[tuple[Any, ...]], run: Callable[..., Any], workers: int, keep: Callable[[Any], None]):
    """Run jobs in processes of one thread each; `keep` receives every result as soon as it is available."""
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for future in as_completed([pool.submit(run, *job) for job in jobs]):
            keep(future.result())


def accuracy(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean accuracy in percent of runs with different seeds on the same n images, and its 95% interval.

    The interval is a bootstrap over images, each with all its runs.
    """
    scores = _scores(runs)
    low, high = _interval(scores)
    return {
        "accuracy": round(100 * float(scores.mean()), 2),
        "ci95": [round(100 * low, 1), round(100 * high, 1)],
        "runs": [round(100 * len(run["right"]) / run["n"], 2) for run in runs],
        "n": runs[0]["n"],
    }


def difference(runs: list[dict[str, Any]], baseline: list[dict[str, Any]]) -> dict[str, Any]:
    """Points of accuracy by which runs lead the baseline's on the same images, with the 95% interval."""
    ahead = _scores(runs) - _scores(baseline)
    low, high = _interval(ahead)
    return {"points": round(100 * float(ahead.mean()), 2), "ci95": [round(100 * low, 1), round(100 * high, 1)]}


def _scores(runs: list[dict[str, Any]]) -> np.ndarray:
    """Share of the runs that classify an image correctly, (n,)."""
    scores = np.zeros(runs[0]["n"])
    for run in runs:
        scores[run["right"]] += 1 / len(runs)
    return scores


def _interval(scores: np.ndarray) -> tuple[float, float]:
    rng = np.random.default_rng(0)
    means = scores[rng.integers(len(scores), size=(2000, len(scores)))].mean(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)
