"""What the benchmarks of classifiers share: training without checkpoints, runs side by side, intervals."""

import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from typing import Any

import numpy as np


def options(task: str, **changes: Any) -> dict[str, Any]:
    """The options of a task as its trainable takes them, some of them changed; `trainer` is among them."""
    from configs.composing import as_dict, load_config

    cfg = load_config("train", [f"task=perception/{task}", *(["task.teacher=none"] if task == "tinyvit" else [])])
    made = as_dict(cfg.task) | {"trainer": as_dict(cfg.trainer)}
    made["trainer"] |= changes.pop("trainer", {})
    return made | changes


def train(trainable: Any, settings: dict[str, Any], seed: int) -> dict[str, float]:
    """Train as the training loop does, on one thread and with nothing else; returns seconds by part of a step."""
    import torch
    from torch.nn.utils import clip_grad_norm_

    from tinyvla.training.optimizer import make_schedule
    from tinyvla.training.trainable import step_seed

    torch.set_num_threads(1)
    module = trainable.module.train()
    optimizer = trainable.make_optimizer(settings)
    schedule = make_schedule(optimizer, settings)
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


def right(trainable: Any) -> list[int]:
    """The numbers of the test pictures that a trained classifier has right."""
    from tinyvla.frontends.cct.training import predict

    pictures = trainable.test_pictures()
    logits = predict(trainable.module.classifier, pictures, range(len(pictures)))
    return np.flatnonzero(logits.argmax(-1).numpy() == pictures.labels).tolist()


def side_by_side(jobs: Iterable[tuple[Any, ...]], run: Callable[..., Any], workers: int, keep: Callable[[Any], None]):
    """Run jobs in processes of one thread each; `keep` takes what each returns as soon as it is there."""
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for future in as_completed([pool.submit(run, *job) for job in jobs]):
            keep(future.result())


def accuracy(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean accuracy in percent of runs with other seeds on the same n pictures, and its 95% interval.

    The interval is of the pictures: they are drawn again (bootstrap), each with all its runs.
    """
    scores = _scores(runs)
    low, high = _interval(scores)
    return {
        "accuracy": round(100 * float(scores.mean()), 2),
        "ci95": [round(100 * low, 1), round(100 * high, 1)],
        "runs": [round(100 * len(run["right"]) / run["n"], 2) for run in runs],
        "n": runs[0]["n"],
    }


def difference(runs: list[dict[str, Any]], others: list[dict[str, Any]]) -> dict[str, Any]:
    """How many points of accuracy runs are ahead of others on the same pictures, with the 95% interval."""
    ahead = _scores(runs) - _scores(others)
    low, high = _interval(ahead)
    return {"points": round(100 * float(ahead.mean()), 2), "ci95": [round(100 * low, 1), round(100 * high, 1)]}


def _scores(runs: list[dict[str, Any]]) -> np.ndarray:
    """Share of the runs that have a picture right, (n,)."""
    scores = np.zeros(runs[0]["n"])
    for run in runs:
        scores[run["right"]] += 1 / len(runs)
    return scores


def _interval(scores: np.ndarray) -> tuple[float, float]:
    rng = np.random.default_rng(0)
    means = scores[rng.integers(len(scores), size=(2000, len(scores)))].mean(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)
