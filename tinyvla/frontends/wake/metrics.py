"""Metrics of person detection: Wake Vision's benchmark suite (arXiv 2405.00892, section 4), overall and per hard kind.

The score of a kind is the authors' F1 of rates rather than counts, so that it does not depend on the number of images
of each kind:

    F1 = 2 TPR / (2 TPR + FPR + FNR)

with the true positive rate TPR (and FNR = 1 - TPR) over the kind's images with a person, and the false positive rate
FPR over the kind's images without. Distances and subject groups describe people, so all images without a person count;
depictions describe images without a person, so all people count.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import rankdata

from ...intervals import wilson_interval
from .dataset import GROUPS, Label

_DRAWS = 2000
_VALUES = {
    "distance": ("near", "mid", "far"),
    "lighting": ("dark", "normal", "bright"),
    "depiction": ("person", "non_person", "none"),
}


def score(probabilities: np.ndarray, labels: Sequence[Label], threshold: float = 0.5, seed: int = 0) -> dict[str, Any]:
    """Metrics of a detector with 95% intervals.

    Args:
        probabilities: (N,), of a person.
        labels: one per image, see `dataset`.
        threshold: probability from which an image counts as one with a person.
        seed: of the intervals' random draws.

    Returns "accuracy" (Wilson), "auroc" (bootstrap of 1,000), "f1", "recall" and "false_alarms" (Wilson), and under
    "kinds" the latter four per kind of image, by the label's name and value. Each holds the numbers of "people" and
    "empty" images. A metric without images is None.
    """
    rng = np.random.default_rng(seed)
    person, probabilities = np.array([label["person"] for label in labels], bool), np.asarray(probabilities)
    right = int(((probabilities >= threshold) == person).sum())
    kinds = {
        name: {value: _kind(probabilities, threshold, masks, rng) for value, masks in _kinds(labels, person, name)}
        for name in (*_VALUES, *GROUPS)
    }
    return {
        "images": len(person),
        "threshold": threshold,
        "accuracy": right / len(person) if len(person) else None,
        "accuracy_ci95": _interval(right, len(person)),
        **_kind(probabilities, threshold, (person, ~person), rng),
        "auroc_ci95": _auroc_ci95(probabilities[person], probabilities[~person], rng),
        "kinds": {name: values for name, values in kinds.items() if values},
    }


def find_thresholds(probabilities: np.ndarray, persons: np.ndarray, false_alarms: float = 0.01) -> tuple[float, float]:
    """Thresholds (on, off) of a gate; (0.5, 0.3) without empty images.

    Args:
        probabilities, persons: (N,) each, of validation images.
        false_alarms: largest share of the images without a person that reach `on`; five times as many reach `off`.
    """
    empty = np.asarray(probabilities)[~np.asarray(persons, bool)]
    if not len(empty):
        return 0.5, 0.3
    on, off = (
        float(np.nextafter(np.quantile(empty, max(0.0, 1 - share), method="higher"), np.float32(2)))
        for share in (false_alarms, min(1.0, 5 * false_alarms))
    )
    return min(on, 1.0), min(off, on, 1.0)


type _Masks = tuple[np.ndarray, np.ndarray]  # flags of the images with a person that count, and of those without


def _kinds(labels: Sequence[Label], person: np.ndarray, name: str) -> list[tuple[str, _Masks]]:
    """Values of a label that occur, with flags of the images that count for each."""
    values = np.array([str(label.get(name)) for label in labels])
    about_people, about_empty = name != "depiction", name in ("depiction", "lighting")
    kinds = []
    for value in _VALUES.get(name) or sorted(set(values) - {"None"}):
        of_kind = values == value
        people, empty = person & of_kind if about_people else person, ~person & of_kind if about_empty else ~person
        if (people if about_people else empty).any():
            kinds.append((value, (people, empty)))
    return kinds


def _kind(probabilities: np.ndarray, threshold: float, masks: _Masks, rng: np.random.Generator) -> dict[str, Any]:
    yes, no = (probabilities[mask] for mask in masks)
    hits, alarms = int((yes >= threshold).sum()), int((no >= threshold).sum())
    metrics: dict[str, Any] = {
        "people": len(yes),
        "empty": len(no),
        "recall": hits / len(yes) if len(yes) else None,
        "recall_ci95": _interval(hits, len(yes)),
        "false_alarms": alarms / len(no) if len(no) else None,
        "false_alarms_ci95": _interval(alarms, len(no)),
        "f1": None,
        "f1_ci95": None,
        "auroc": None,
    }
    if len(yes) and len(no):
        metrics["f1"] = float(_f1(hits / len(yes), alarms / len(no)))
        # Rates drawn from Jeffreys' posterior, so that the interval is not empty where no image is wrong.
        recall = rng.beta(hits + 0.5, len(yes) - hits + 0.5, _DRAWS)
        drawn = _f1(recall, rng.beta(alarms + 0.5, len(no) - alarms + 0.5, _DRAWS))
        metrics["f1_ci95"] = np.quantile(drawn, (0.025, 0.975)).tolist()
        metrics["auroc"] = _auroc(yes, no)
    return metrics


def _interval(successes: int, n: int) -> list[float] | None:
    return list(wilson_interval(successes, n)) if n else None


def _auroc(yes: np.ndarray, no: np.ndarray) -> float:
    """Share of the pairs in the right order (Mann-Whitney)."""
    ranks = rankdata(np.concatenate([yes, no]))[: len(yes)]
    return float((ranks.sum() - len(yes) * (len(yes) + 1) / 2) / (len(yes) * len(no)))


def _auroc_ci95(yes: np.ndarray, no: np.ndarray, rng: np.random.Generator) -> list[float] | None:
    """Bootstrap over images with and without a person."""
    if not len(yes) or not len(no):
        return None
    drawn = [_auroc(rng.choice(yes, len(yes)), rng.choice(no, len(no))) for _ in range(1000)]
    return np.quantile(drawn, (0.025, 0.975)).tolist()


def _f1(recall: Any, false_alarms: Any) -> Any:
    return 2 * recall / (recall + false_alarms + 1)  # 2 TPR + FPR + (1 - TPR)
