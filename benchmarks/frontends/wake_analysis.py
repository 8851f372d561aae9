"""Analysis of person detectors: sweeps of width and input size, and the effect of quantisation."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import nn

from tinyvla.frontends.wake import Wake
from tinyvla.frontends.wake.frontend import predict
from tinyvla.frontends.wake.metrics import score


def sweep(fit: Callable[[float, int], Wake], widths: Iterable[float], sizes: Iterable[int], test: Any) -> list[dict]:
    """Scores of detectors of several widths and input sizes.

    Args:
        fit: trains a detector of a width and an image size.
        widths, sizes: to train, every pair of them.
        test: has `images` and `labels`.
    """
    rows = []
    for width in widths:
        for size in sizes:
            scores = score(predict(fit(width, size), test.images), test.labels)
            distances = {
                value: {"f1": one["f1"], "auroc": one["auroc"]} for value, one in scores["kinds"]["distance"].items()
            }
            headline = {name: scores[name] for name in ("accuracy", "accuracy_ci95", "auroc", "f1")}
            rows.append({"width": width, "image_size": size, **headline, "distance": distances})
    return rows


def leverage(rows: Sequence[Mapping[str, Any]], distance: str = "far", measure: str = "auroc") -> dict[str, float]:
    """Points of 100 that doubling the input size, and doubling the width, each add to a score at a distance.

    Least squares over the rows of `sweep`. Each doubling costs about four times the multiply-adds, so that the two are
    comparable.
    """
    table = np.array([[1.0, np.log2(row["width"]), np.log2(row["image_size"])] for row in rows])
    scores = np.array([100 * row["distance"][distance][measure] for row in rows])
    (_, width, size), *_ = np.linalg.lstsq(table, scores, rcond=None)
    return {"width": float(width), "image_size": float(size)}


def quantisation_effect(
    wake: Wake, quantise: Callable[[nn.Module, Sequence[Any]], nn.Module], calibration: Sequence[Any], test: Any
) -> dict[str, Any]:
    """Scores before and after quantisation, and the share of decisions that change.

    Args:
        wake: the detector.
        quantise: from a module and calibration batches to a quantised module.
        calibration: batches as the module takes them.
        test: has `images` and `labels`.
    """
    before = predict(wake, test.images)
    after = predict(quantise(wake, calibration), test.images)
    return {
        "float": score(before, test.labels),
        "quantised": score(after, test.labels),
        "changed": float(((before >= 0.5) != (after >= 0.5)).mean()),
        "largest_difference": float(np.abs(before - after).max()),
    }
