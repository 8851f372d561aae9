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

    Returns "accuracy" (Wilson), "auroc" (bootstrap), "f1", "recall", "false_alarms", and under "kinds" for each kind
    of picture, by the label's name and value, "f1" with "f1_ci95", "recall" and "false_alarms" (Wilson) and how many
    pictures with and without a person they are of. What there are no pictures for is None.
    """
    rng = np.random.default_rng(seed)
    person = np.array([label["person"] for label in labels], bool)
    said = np.asarray(probabilities) >= threshold
    auroc, auroc_ci = area_under_roc(np.asarray(probabilities), person, rng)
    right = int((said == person).sum())
    kinds = {
        name: {value: _kind(said, person, where, rng) for value, where in _kinds(labels, person, name)}
        for name in (*_VALUES, *GROUPS)
    }
    return {
        "pictures": len(person),
        "threshold": threshold,
        "accuracy": right / len(person) if len(person) else None,
        "accuracy_ci95": wilson(right, len(person)),
        "auroc": auroc,
        "auroc_ci95": auroc_ci,
        **_kind(said, person, (person, ~person), rng),
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
            distances = {value: one["recall"] for value, one in found["kinds"].get("distance", {}).items()}
            rows.append({"width": width, "image_size": size, **_headline(found), "recall": distances})
    return rows


def leverage(rows: Sequence[Mapping[str, Any]], distance: str = "far") -> dict[str, float]:
    """What doubling the input size and doubling the width each add to the recall at a distance, in points of 100.

    Least squares over the rows of `sweep`. Either doubling costs about four times the multiply-adds, so the two can be
    compared: where `image_size` is the larger, resolution matters more.
    """
    table = np.array([[1.0, np.log2(row["width"]), np.log2(row["image_size"])] for row in rows])
    recall = np.array([100 * row["recall"][distance] for row in rows])
    (_, width, size), *_ = np.linalg.lstsq(table, recall, rcond=None)
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


def area_under_roc(
    probabilities: np.ndarray, person: np.ndarray, rng: np.random.Generator
) -> tuple[float | None, list[float] | None]:
    """Area under the ROC curve, and its 95% interval by resampling people and empty pictures 1,000 times."""
    yes, no = probabilities[person], probabilities[~person]
    if not len(yes) or not len(no):
        return None, None
    drawn = [_auroc(rng.choice(yes, len(yes)), rng.choice(no, len(no))) for _ in range(1000)]
    return _auroc(yes, no), np.quantile(drawn, (0.025, 0.975)).tolist()


def wilson(successes: int, count: int) -> list[float] | None:
    """A share's 95% interval."""
    if not count:
        return None
    interval = binomtest(successes, count).proportion_ci(0.95, method="wilson")
    return [float(interval.low), float(interval.high)]


def _auroc(yes: np.ndarray, no: np.ndarray) -> float:
    """The share of pairs that are in the right order (Mann-Whitney)."""
    ranks = rankdata(np.concatenate([yes, no]))[: len(yes)]
    return float((ranks.sum() - len(yes) * (len(yes) + 1) / 2) / (len(yes) * len(no)))


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


def _kind(said: np.ndarray, person: np.ndarray, where: _Where, rng: np.random.Generator) -> dict[str, Any]:
    people, empty = where
    n_people, n_empty = int(people.sum()), int(empty.sum())
    hits, alarms = int(said[people].sum()), int(said[empty].sum())
    found: dict[str, Any] = {
        "people": n_people,
        "empty": n_empty,
        "recall": hits / n_people if n_people else None,
        "recall_ci95": wilson(hits, n_people),
        "false_alarms": alarms / n_empty if n_empty else None,
        "false_alarms_ci95": wilson(alarms, n_empty),
        "f1": None,
        "f1_ci95": None,
    }
    if n_people and n_empty:
        found["f1"] = float(_f1(hits / n_people, alarms / n_empty))
        # Rates as they could be, given these counts (Jeffreys' prior): an interval also where nothing went wrong.
        drawn = _f1(
            rng.beta(hits + 0.5, n_people - hits + 0.5, _DRAWS), rng.beta(alarms + 0.5, n_empty - alarms + 0.5, _DRAWS)
        )
        found["f1_ci95"] = np.quantile(drawn, (0.025, 0.975)).tolist()
    return found


def _f1(recall: Any, false_alarms: Any) -> Any:
    return 2 * recall / (recall + false_alarms + 1)  # 2 TPR + FPR + (1 - TPR)


def _headline(found: Mapping[str, Any]) -> dict[str, Any]:
    return {name: found[name] for name in ("accuracy", "accuracy_ci95", "auroc", "f1")}
