"""How a person detector is trained: on Wake Vision as it streams in, or on generated rooms."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tinyvla.augment import augment_images
from tinyvla.perception.wake.dataset import Label, WakeVisionStream, take
from tinyvla.perception.wake.frontend import Wake, predict
from tinyvla.perception.wake.suite import find_thresholds, score

from ..training.trainee import Batch, Trainee, step_generator

_OPTIONS = ("network", "width", "image_size")  # of `Wake`


class Scenes(Protocol):
    """Pictures uint8 (N, S, S, 3) and a label each, in memory or mapped into it."""

    images: Any
    labels: Any

    def __len__(self) -> int: ...


class _Objective(nn.Module):
    """Binary cross-entropy, and the share of the batch that is judged right."""

    def __init__(self, wake: Wake):
        super().__init__()
        self.wake = wake

    def forward(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        logits = self.wake(batch["images"])
        loss = F.binary_cross_entropy_with_logits(logits, batch["person"])
        return loss, {"accuracy": float(((logits > 0) == (batch["person"] > 0)).float().mean())}


class WakeTrainee(Trainee):
    """Trains a `Wake`; the area under its ROC curve on validation pictures says which is the best.

    Args:
        options: network, width and image_size as of `Wake`; batch_size; false_alarms, the share of empty validation
            pictures that may reach the gate's threshold; augment, as of `augment_images`, at image_size.
        train: what it learns from.
        validation: what the thresholds are found on, and how good it is.
        seed: of the weights and of every draw.
    """

    def __init__(self, options: Mapping[str, Any], train: Scenes | WakeVisionStream, validation: Scenes, seed: int):
        torch.manual_seed(seed)
        self.wake = Wake(**{name: options[name] for name in _OPTIONS})
        self.module = _Objective(self.wake)
        self._options, self._train, self._validation, self._seed = options, train, validation, seed
        self._persons = _persons(validation.labels)
        self._train_persons = None if isinstance(train, WakeVisionStream) else _persons(train.labels)

    def batch(self, step: int) -> Batch:
        """images (B, 3, image_size, image_size) float in [0, 1], augmented; person (B,) 0 or 1."""
        generator = step_generator(self._seed, step)
        pictures, persons = self._draw(step, generator)
        size = (self._options["image_size"],) * 2
        images = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
        if images.shape[-2:] != size:
            images = F.interpolate(images, size, mode="bilinear", antialias=True, align_corners=False)
        mirrored = torch.rand(len(images), 1, 1, 1, generator=generator) < 0.5
        images = augment_images(torch.where(mirrored, images.flip(-1), images), self._options["augment"], generator)
        return {"images": images, "person": torch.from_numpy(persons)}

    def evaluate(self) -> dict[str, float]:
        """Scores on the validation pictures; `score` is the area under the ROC curve."""
        found = score(self._predict(self.wake), self._validation.labels)
        recalls = {f"recall_{value}": kind["recall"] for value, kind in found["kinds"].get("distance", {}).items()}
        figures = {"score": found["auroc"], "accuracy": found["accuracy"], "f1": found["f1"], **recalls}
        return {name: float(figure) for name, figure in figures.items() if figure is not None}

    def save(self, folder: Path, weights: dict[str, Tensor] | None = None) -> None:
        """Write a `Wake` with the thresholds that suit it."""
        wake = copy.deepcopy(self.wake)
        if weights is not None:
            wake.load_state_dict({name.removeprefix("wake."): value for name, value in weights.items()})
        on, off = find_thresholds(self._predict(wake), self._persons, self._options["false_alarms"])
        wake.options |= {"on": on, "off": off}
        wake.save(folder)

    def _draw(self, step: int, generator: torch.Generator) -> tuple[np.ndarray, np.ndarray]:
        """A batch's pictures and whether a person is in each."""
        if isinstance(self._train, WakeVisionStream):
            return self._train.batch(step)
        assert self._train_persons is not None
        drawn = torch.randint(len(self._train), (self._options["batch_size"],), generator=generator).numpy()
        return np.asarray(self._train.images[np.sort(drawn)]), self._train_persons[np.sort(drawn)]

    def _predict(self, wake: Wake) -> np.ndarray:
        training = wake.training
        wake.eval()
        try:
            return predict(wake, self._validation.images)
        finally:
            wake.train(training)


def hub_data(data: Mapping[str, Any], batch_size: int, seed: int) -> tuple[WakeVisionStream, Scenes]:
    """Wake Vision's training and validation pictures, for `WakeTrainee`.

    data: split, train_large or train_quality; image_size; validation, how many pictures; source, a folder in place of
        the hub; buffer, see `WakeVisionStream`.
    """
    size, source = data["image_size"], data["source"]
    train = WakeVisionStream(data["split"], size, batch_size, seed, source, data["buffer"])
    return train, take("validation", size, data["validation"], source)


def _persons(labels: list[Label]) -> np.ndarray:
    return np.array([label["person"] for label in labels], np.float32)
