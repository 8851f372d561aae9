"""Wake Vision's benchmark suite (arXiv 2405.00892, section 4): one score for all pictures, and one for each hard kind.

The score of a kind is the authors' F1, of rates rather than counts, so that it does not depend on how many pictures of
each kind there are:

    F1 = 2 TPR / (2 TPR + FPR + FNR)

with the true positive rate TPR (and FNR = 1 - TPR) over the kind's pictures with a person, and the false positive rate
FPR over the kind's pictures without. Distances and subject groups are about people, so all pictures without count;
depictions are about pictures without, so all people count.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import binomtest, rankdata
from torch import nn

from .dataset import GROUPS, Label
from .frontend import Wake, predict

_DRAWS = 2000
_VALUES = {
    "distance": ("near", "mid", "far"),
    "lighting": ("dark", "normal", "bright"),
    "depiction": ("person", "non_person", "none"),
}


def score(probabilities: np.ndarray, labels: Sequence[Label], threshold: float = 0.5, seed: int = 0) -> dict[str, Any]:
    """How well a detector does, with 95% intervals.

    Args:
        probabilities: (N,), of a person.
        labels: one a picture, see `dataset`.
        threshold: from which probability on a picture counts as one with a person.
        seed: of the intervals' random draws.

    Returns "accuracy" (Wilson), "auroc" (bootstrap of 1,000), "f1", "recall", "false_alarms" (Wilson), and under
    "kinds" for each kind of picture, by the label's name and value, the latter four; each says how many "people" and
    "empty" pictures it is of. What there are no pictures for is None.
    """
    rng = np.random.default_rng(seed)
    person, probabilities = np.array([label["person"] for label in labels], bool), np.asarray(probabilities)
    right = int(((probabilities >= threshold) == person).sum())
    kinds = {
        name: {value: _kind(probabilities, threshold, where, rng) for value, where in _kinds(labels, person, name)}
        for name in (*_VALUES, *GROUPS)
    }
    return {
        "pictures": len(person),
        "threshold": threshold,
        "accuracy": right / len(person) if len(person) else None,
        "accuracy_ci95": wilson(right, len(person)),
        **_kind(probabilities, threshold, (person, ~person), rng),
        "auroc_ci95": _auroc_ci95(probabilities[person], probabilities[~person], rng),
        "kinds": {name: found for name, found in kinds.items() if found},
    }


def find_thresholds(probabilities: np.ndarray, persons: np.ndarray, false_alarms: float = 0.01) -> tuple[float, float]:
    """A gate's on and off: at most this share of the pictures without a person reaches `on`, five times it `off`.

    probabilities, persons: (N,) each, of validation pictures. Without any empty pictures, (0.5, 0.3).
    """
    empty = np.asarray(probabilities)[~np.asarray(persons, bool)]
    if not len(empty):
        return 0.5, 0.3
    on, off = (
        float(np.nextafter(np.quantile(empty, max(0.0, 1 - share), method="higher"), np.float32(2)))
        for share in (false_alarms, min(1.0, 5 * false_alarms))
    )
    return min(on, 1.0), min(off, on, 1.0)


def sweep(fit: Callable[[float, int], Wake], widths: Iterable[float], sizes: Iterable[int], test: Any) -> list[dict]:
    """Scores of detectors of several widths and input sizes.

    Args:
        fit: trains one of this width and image size.
        test: pictures, with `images` and `labels`.
    """
    rows = []
    for width in widths:
        for size in sizes:
            found = score(predict(fit(width, size), test.images), test.labels)
            distances = {
                value: {"f1": one["f1"], "auroc": one["auroc"]} for value, one in found["kinds"]["distance"].items()
            }
            headline = {name: found[name] for name in ("accuracy", "accuracy_ci95", "auroc", "f1")}
            rows.append({"width": width, "image_size": size, **headline, "distance": distances})
    return rows


def leverage(rows: Sequence[Mapping[str, Any]], distance: str = "far", measure: str = "auroc") -> dict[str, float]:
    """What doubling the input size and doubling the width each add to a score at a distance, in points of 100.

    Least squares over the rows of `sweep`. Either doubling costs about four times the multiply-adds, so the two can be
    compared: where `image_size` is the larger, resolution matters more.
    """
    table = np.array([[1.0, np.log2(row["width"]), np.log2(row["image_size"])] for row in rows])
    scores = np.array([100 * row["distance"][distance][measure] for row in rows])
    (_, width, size), *_ = np.linalg.lstsq(table, scores, rcond=None)
    return {"width": float(width), "image_size": float(size)}


def quantisation_effect(
    wake: Wake, quantise: Callable[[nn.Module, Sequence[Any]], nn.Module], calibration: Sequence[Any], test: Any
) -> dict[str, Any]:
    """Scores before and after quantisation, and how many of the decisions change.

    Args:
        quantise: from a module and calibration batches, a module that does the same in fewer bits.
        calibration: batches as the module takes them.
    """
    before = predict(wake, test.images)
    after = predict(quantise(wake, calibration), test.images)
    return {
        "float": score(before, test.labels),
        "quantised": score(after, test.labels),
        "changed": float(((before >= 0.5) != (after >= 0.5)).mean()),
        "largest_difference": float(np.abs(before - after).max()),
    }


def wilson(successes: int, count: int) -> list[float] | None:
    """A share's 95% interval."""
    if not count:
        return None
    interval = binomtest(successes, count).proportion_ci(0.95, method="wilson")
    return [float(interval.low), float(interval.high)]


type _Where = tuple[np.ndarray, np.ndarray]  # which pictures with a person count, and which without


def _kinds(labels: Sequence[Label], person: np.ndarray, name: str) -> list[tuple[str, _Where]]:
    """The values of a label that occur, and which pictures tell how hard each is."""
    values = np.array([str(label.get(name)) for label in labels])
    about_people, about_empty = name != "depiction", name in ("depiction", "lighting")
    found = []
    for value in _VALUES.get(name) or sorted(set(values) - {"None"}):
        of_kind = values == value
        people, empty = person & of_kind if about_people else person, ~person & of_kind if about_empty else ~person
        if (people if about_people else empty).any():
            found.append((value, (people, empty)))
    return found


def _kind(probabilities: np.ndarray, threshold: float, where: _Where, rng: np.random.Generator) -> dict[str, Any]:
    yes, no = (probabilities[which] for which in where)
    hits, alarms = int((yes >= threshold).sum()), int((no >= threshold).sum())
    found: dict[str, Any] = {
        "people": len(yes),
        "empty": len(no),
        "recall": hits / len(yes) if len(yes) else None,
        "recall_ci95": wilson(hits, len(yes)),
        "false_alarms": alarms / len(no) if len(no) else None,
        "false_alarms_ci95": wilson(alarms, len(no)),
        "f1": None,
        "f1_ci95": None,
        "auroc": None,
    }
    if len(yes) and len(no):
        found["f1"] = float(_f1(hits / len(yes), alarms / len(no)))
        # Rates as they could be, given these counts (Jeffreys' prior): an interval also where nothing went wrong.
        recall = rng.beta(hits + 0.5, len(yes) - hits + 0.5, _DRAWS)
        drawn = _f1(recall, rng.beta(alarms + 0.5, len(no) - alarms + 0.5, _DRAWS))
        found["f1_ci95"] = np.quantile(drawn, (0.025, 0.975)).tolist()
        found["auroc"] = _auroc(yes, no)
    return found


def _auroc(yes: np.ndarray, no: np.ndarray) -> float:
    """The share of pairs that are in the right order (Mann-Whitney)."""
    ranks = rankdata(np.concatenate([yes, no]))[: len(yes)]
    return float((ranks.sum() - len(yes) * (len(yes) + 1) / 2) / (len(yes) * len(no)))


def _auroc_ci95(yes: np.ndarray, no: np.ndarray, rng: np.random.Generator) -> list[float] | None:
    """By resampling people and empty pictures."""
    if not len(yes) or not len(no):
        return None
    drawn = [_auroc(rng.choice(yes, len(yes)), rng.choice(no, len(no))) for _ in range(1000)]
    return np.quantile(drawn, (0.025, 0.975)).tolist()


def _f1(recall: Any, false_alarms: Any) -> Any:
    return 2 * recall / (recall + false_alarms + 1)  # 2 TPR + FPR + (1 - TPR)
