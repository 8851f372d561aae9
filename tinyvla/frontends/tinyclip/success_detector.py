"""Is a statement true of a picture? A success detector: CLIP's score, calibrated on pictures where it is known."""

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
from .frontend import Pictures, TinyCLIP

FILE = "detector.json"


@dataclass(frozen=True)
class Calibration:
    """What turns scores into probabilities and these into a decision, and how that fared on the pictures it is from.

    temperature, offset: the probability is sigmoid((score - offset) / temperature).
    threshold: probabilities from here on count as success.
    positives, negatives: pictures of either kind.
    f1, false_positive_rate, recall: at the threshold, on these very pictures.
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
    """Tells whether a statement such as "the drawer is open" is true of a picture.

    A picture's score is how well it fits the statement, less how well it fits the contrary, if one is given: what all
    pictures have in common then cancels out.

    Args:
        frontend: scores pictures and texts.
        statement: what success looks like.
        contrary: what failure looks like, such as "the drawer is closed".
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
        frontend.ids(self._texts)  # a text that cannot be read shows now

    @property
    def _texts(self) -> list[str]:
        return [self.statement] if self.contrary is None else [self.statement, self.contrary]

    def score(self, images: Pictures) -> np.ndarray:
        """Uncalibrated scores (N,) of N pictures."""
        scores = self.frontend.score(images, self._texts).cpu().double().numpy()
        return scores[:, 0] if self.contrary is None else scores[:, 0] - scores[:, 1]

    def calibrate(self, images: Pictures, truth: Sequence[bool], false_positive_rate: float | None = None) -> Self:
        """Fit temperature, offset and threshold to pictures of which it is known whether the statement is true.

        false_positive_rate: the threshold is the lowest with at most this share of false alarms; None: the one of the
            best F1.

        Raises UserError if either kind has fewer than two pictures, or if true ones do not score higher.
        """
        true = np.asarray(truth, bool)
        if len(true) != len(images) or min(true.sum(), (~true).sum()) < 2:
            raise UserError(
                f"a detector is calibrated on at least two pictures of success and two of failure, not {true.sum()} "
                f"and {(~true).sum()} for {len(images)} pictures; give more, and the truth of each"
            )
        scores = self.score(images)
        slope, shift = fit_logistic(scores, true)
        if slope <= 0:
            raise UserError(
                f"pictures of success do not fit '{self.statement}' any better than those of failure; "
                "word it otherwise, give a contrary, or train on such pictures"
            )
        probabilities = expit(slope * scores + shift)
        threshold = choose_threshold(probabilities, true, false_positive_rate)
        self.calibration = Calibration(
            *(1 / slope, -shift / slope, threshold, int(true.sum()), int((~true).sum())),
            **rates(probabilities >= threshold, true),
        )
        return self

    def probability(self, images: Pictures) -> np.ndarray:
        """Probabilities (N,) that the statement is true. Raises UserError before `calibrate`."""
        known = self._calibrated()
        return expit((self.score(images) - known.offset) / known.temperature)

    def __call__(self, images: Pictures) -> np.ndarray:
        """Whether the statement is true of each picture, (N,) bool. Raises UserError before `calibrate`."""
        return self.probability(images) >= self._calibrated().threshold

    def save(self, folder: Path) -> None:
        """Write the front-end and, beside it, `detector.json`."""
        self.frontend.save(folder)
        texts = {"statement": self.statement, "contrary": self.contrary}
        write_whole(folder / FILE, json.dumps(texts | {"calibration": asdict(self._calibrated())}, indent=1))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The detector that `save` wrote. Raises UserError if there is none."""
        try:
            stored = json.loads((folder / FILE).read_text())
            known = Calibration(**stored["calibration"])
            texts = stored["statement"], stored["contrary"]
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise UserError(
                f"there is no whole detector in {folder} ({type(error).__name__}); save one there"
            ) from error
        return cls(TinyCLIP.from_pretrained(folder), *texts, known)

    def _calibrated(self) -> Calibration:
        if self.calibration is None:
            raise UserError(f"the detector of '{self.statement}' is not calibrated; call calibrate(pictures, truth)")
        return self.calibration


def fit_logistic(scores: np.ndarray, true: np.ndarray) -> tuple[float, float]:
    """Slope and shift of Platt's logistic fit, whose targets keep off 0 and 1 so that separable scores have one."""
    high, low = (true.sum() + 1) / (true.sum() + 2), 1 / ((~true).sum() + 2)
    targets, spread = np.where(true, high, low), scores.std() or 1.0
    standard = (scores - scores.mean()) / spread

    def loss(parameters: np.ndarray) -> float:
        logits = parameters[0] * standard + parameters[1]
        return float(np.mean(np.logaddexp(0, logits) - targets * logits))

    slope, shift = minimize(loss, np.zeros(2)).x
    return float(slope / spread), float(shift - slope * scores.mean() / spread)


def choose_threshold(probabilities: np.ndarray, true: np.ndarray, false_positive_rate: float | None) -> float:
    """The threshold of the best F1 or, with a wanted rate, the lowest whose share of false positives keeps to it."""
    between = np.unique(probabilities)
    between = np.r_[between[0], (between[1:] + between[:-1]) / 2, np.nextafter(between[-1], 2)]
    if false_positive_rate is None:
        return float(max(between, key=lambda bar: rates(probabilities >= bar, true)["f1"]))
    kept = (bar for bar in between if (probabilities >= bar)[~true].mean() <= false_positive_rate)
    return float(next(kept))


def rates(said: np.ndarray, true: np.ndarray) -> dict[str, Any]:
    """F1, share of false positives and recall of decisions (N,)."""
    hits, alarms, missed = (said & true).sum(), (said & ~true).sum(), (~said & true).sum()
    return {
        "f1": float(2 * hits / max(2 * hits + alarms + missed, 1)),
        "false_positive_rate": float(alarms / max((~true).sum(), 1)),
        "recall": float(hits / max(true.sum(), 1)),
    }
