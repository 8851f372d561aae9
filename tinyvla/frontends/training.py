"""What the training of every front-end has in common beside the loop's own `Trainable`."""

from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from safetensors.torch import load_file
from scipy.stats import binomtest

from ..training.trainable import Trainable
from . import Picture


class LabelledScenes(Protocol):
    """Labelled pictures, such as those of `envs.scenes`: images uint8 (N, S, S, 3) and a dict of labels for each."""

    images: np.ndarray
    labels: list[dict[str, Any]]

    def __len__(self) -> int: ...


class Figure(NamedTuple):
    """A measured figure: its value, of how many samples, and its 95% interval where it has one."""

    value: float
    n: int
    ci95: tuple[float, float] | None = None


def share(hits: int, n: int) -> Figure:
    """hits of n, with Wilson's 95% interval."""
    interval = binomtest(hits, n).proportion_ci(method="wilson")
    return Figure(hits / n, n, (float(interval.low), float(interval.high)))


class VisionTrainable(Trainable):
    """A front-end, or another vision model, trained on pictures of the splits train, validation and test.

    Attributes:
        score: what the score of `evaluate` and of `test` is, in words.
    """

    score: str

    def evaluate(self) -> dict[str, float]:
        """Figures on the validation pictures; `score` is the one that decides which checkpoint is the best."""
        raise NotImplementedError

    def test(self) -> dict[str, Figure]:
        """Figures on the test pictures, the first of which is the score."""
        raise NotImplementedError

    def examples(self) -> dict[str, Picture]:
        """Test pictures with what the model sees drawn into them, by caption. Default: none."""
        return {}

    def restore(self, folder: Path) -> None:
        """Take over the weights of a folder that `save` wrote. Default: the module's, from model.safetensors."""
        self.module.load_state_dict(load_file(folder / "model.safetensors"))
