"""Success detector: decides whether a statement is true of an image, from CLIP's score calibrated on known images."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from ...errors import UserError
from ...files import write_whole
from ...untrusted import check_values, inside, read_json_object
from .frontend import ImageBatch, TinyCLIP

FILE = "detector.json"


@dataclass(frozen=True)
class Calibration:
    """Map from scores to probabilities and decisions, with its metrics on the calibration images.

    temperature, offset: the probability is sigmoid((score - offset) / temperature).
    threshold: probability from which an image counts as success.
    positives, negatives: numbers of calibration images.
    f1, false_positive_rate, recall: at the threshold, on the calibration images.
    """

    temperature: float
    offset: float
    threshold: float
    positives: int
    negatives: int
    f1: float
    false_positive_rate: float
    recall: float


class SuccessDetector:
    """Detector of a statement such as "the drawer is open" in images.

    The score of an image is its fit to the statement minus its fit to the contrary, so that what all images have in
    common cancels out.

    Args:
        frontend: scores images and texts.
        statement: describes success.
        contrary: describes failure, such as "the drawer is closed"; None: the score is the fit to the statement.
        calibration: None until `calibrate`.
    """

    def __init__(
        self,
        frontend: TinyCLIP,
        statement: str,
        contrary: str | None = None,
        calibration: Calibration | None = None,
    ):
        self.frontend, self.statement, self.contrary = frontend, statement, contrary
        self.calibration = calibration
        frontend.ids(self._texts)  # raises for an invalid text now

    @property
    def _texts(self) -> list[str]:
        return [self.statement] if self.contrary is None else [self.statement, self.contrary]

    def score(self, images: ImageBatch) -> np.ndarray:
        """Uncalibrated scores (N,) of N images."""
        scores = self.frontend.score(images, self._texts).cpu().double().numpy()
        return scores[:, 0] if self.contrary is None else scores[:, 0] - scores[:, 1]

    def calibrate(self, images: ImageBatch, truth: Sequence[bool], false_positive_rate: float | None = None) -> Self:
        """Fit temperature, offset and threshold to images with known truth of the statement.

        Args:
            images: N images.
            truth: (N,), truth of the statement in each.
            false_positive_rate: choose the lowest threshold with at most this share of false alarms; None: the
                threshold with the best F1.

        Raises UserError if either kind has fewer than two images, or if images of success do not score higher.
        """
        true = np.asarray(truth, bool)
        if len(true) != len(images) or min(true.sum(), (~true).sum()) < 2:
            raise UserError(
                f"a detector is calibrated on at least two images of success and two of failure, not {true.sum()} "
                f"and {(~true).sum()} for {len(images)} images; give more, and the truth of each"
            )
        scores = self.score(images)
        slope, shift = fit_logistic(scores, true)
        if slope <= 0:
            raise UserError(
                f"images of success do not fit '{self.statement}' any better than those of failure; "
                "word it otherwise, give a contrary, or train on such images"
            )
        probabilities = expit(slope * scores + shift)
        threshold = choose_threshold(probabilities, true, false_positive_rate)
        self.calibration = Calibration(
            *(1 / slope, -shift / slope, threshold, int(true.sum()), int((~true).sum())),
            **rates(probabilities >= threshold, true),
        )
        return self

    def probability(self, images: ImageBatch) -> np.ndarray:
        """Probabilities (N,) that the statement is true. Raises UserError before `calibrate`."""
        calibration = self._calibrated()
        return expit((self.score(images) - calibration.offset) / calibration.temperature)

    def __call__(self, images: ImageBatch) -> np.ndarray:
        """Decision per image, (N,) bool, True for success. Raises UserError before `calibrate`."""
        return self.probability(images) >= self._calibrated().threshold

    def save(self, folder: Path) -> None:
        """Write the front-end and, beside it, `detector.json`."""
        self.frontend.save(folder)
        texts = {"statement": self.statement, "contrary": self.contrary}
        write_whole(folder / FILE, json.dumps(texts | {"calibration": asdict(self._calibrated())}, indent=1))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Detector that `save` wrote. Raises UserError if there is none."""
        try:
            stored = read_json_object(inside(folder, FILE), 1 << 20)
            check_values(stored, FILE)
            calibration = Calibration(**stored["calibration"])
            texts = stored["statement"], stored["contrary"]
        except (UserError, ValueError, TypeError, KeyError) as error:
            raise UserError(
                f"there is no complete detector in {folder} ({type(error).__name__}); save one there"
            ) from error
        return cls(TinyCLIP.from_pretrained(folder), *texts, calibration)

    def _calibrated(self) -> Calibration:
        if self.calibration is None:
            raise UserError(f"the detector of '{self.statement}' is not calibrated; call calibrate(images, truth)")
        return self.calibration


def fit_logistic(scores: np.ndarray, true: np.ndarray) -> tuple[float, float]:
    """Slope and shift of Platt's logistic fit, with targets off 0 and 1 so that separable scores have a finite fit."""
    high, low = (true.sum() + 1) / (true.sum() + 2), 1 / ((~true).sum() + 2)
    targets, spread = np.where(true, high, low), scores.std() or 1.0
    standard = (scores - scores.mean()) / spread

    def loss(parameters: np.ndarray) -> float:
        logits = parameters[0] * standard + parameters[1]
        return float(np.mean(np.logaddexp(0, logits) - targets * logits))

    slope, shift = minimize(loss, np.zeros(2)).x
    return float(slope / spread), float(shift - slope * scores.mean() / spread)


def choose_threshold(probabilities: np.ndarray, true: np.ndarray, false_positive_rate: float | None) -> float:
    """Threshold with the best F1, or the lowest one with at most the given rate of false positives."""
    between = np.unique(probabilities)
    between = np.r_[between[0], (between[1:] + between[:-1]) / 2, np.nextafter(between[-1], 2)]
    if false_positive_rate is None:
        return float(max(between, key=lambda bar: rates(probabilities >= bar, true)["f1"]))
    allowed = (bar for bar in between if (probabilities >= bar)[~true].mean() <= false_positive_rate)
    return float(next(allowed))


def rates(decisions: np.ndarray, true: np.ndarray) -> dict[str, Any]:
    """F1, false positive rate and recall of decisions (N,)."""
    hits, alarms, missed = (decisions & true).sum(), (decisions & ~true).sum(), (~decisions & true).sum()
    return {
        "f1": float(2 * hits / max(2 * hits + alarms + missed, 1)),
        "false_positive_rate": float(alarms / max((~true).sum(), 1)),
        "recall": float(hits / max(true.sum(), 1)),
    }
