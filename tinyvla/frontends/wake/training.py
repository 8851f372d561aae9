"""How a person detector is trained: on Wake Vision as it streams in, or on generated rooms."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...augment import AugmentConfig, augment_images, random_noise
from ...decoding import decode_section
from ...training.trainable import Batch, step_generator
from .. import Picture, load_frontend
from ..training import Figure, LabelledScenes, VisionTrainable
from .dataset import WakeVisionStream, take
from .frontend import Wake, predict
from .metrics import find_thresholds, score

_OPTIONS = ("network", "width", "image_size")  # of `Wake`


class _Objective(nn.Module):
    """Binary cross-entropy, and the share of the batch that is judged right."""

    def __init__(self, wake: Wake):
        super().__init__()
        self.wake = wake

    def forward(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        logits = self.wake(batch["images"])
        loss = F.binary_cross_entropy_with_logits(logits, batch["person"])
        return loss, {"accuracy": float(((logits > 0) == (batch["person"] > 0)).float().mean())}


class WakeTrainable(VisionTrainable):
    """Trains a `Wake`; the area under its ROC curve on validation pictures says which is the best.

    Args:
        options: network, width and image_size as of `Wake`; false_alarms, the share of empty validation pictures that
            may reach the gate's threshold; augment, as of `augment_images`, and noise, as of `random_noise`, at
            image_size; dataset, for the real Wake Vision in the place of `pictures`; trainer.batch_size.
        pictures: of the splits train, validation and test, with labels as `tinyvla.frontends.wake.dataset` has them.
        seed: of the weights and of every draw.
        part: (index, of), where several processes train together.
    """

    score = "area under the ROC curve"

    def __init__(
        self,
        options: Mapping[str, Any],
        pictures: Mapping[str, LabelledScenes],
        seed: int,
        part: tuple[int, int] = (0, 1),
    ):
        torch.manual_seed(seed)
        self.wake = Wake(**{name: options[name] for name in _OPTIONS})
        self.module = _Objective(self.wake)
        self._options, self._seed, self._part = options, seed, part
        self._batch_size: int = options["trainer"]["batch_size"]
        self._stream: WakeVisionStream | None = None
        if options["dataset"]["split"] is not None:
            self._stream, pictures = _wake_vision(options["dataset"], self._batch_size, seed)
        else:
            self._train, self._persons = pictures["train"], _persons(pictures["train"].labels)
        self._validation, self._test = pictures["validation"], pictures["test"]

    def batch(self, step: int) -> Batch:
        """images (B, 3, image_size, image_size) float in [0, 1], augmented; person (B,) 0 or 1."""
        generator = step_generator(self._seed, step)
        pictures, persons = self._draw(step, generator)
        size = (self._options["image_size"],) * 2
        images = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
        if images.shape[-2:] != size:
            images = F.interpolate(images, size, mode="bilinear", antialias=True, align_corners=False)
        mirrored = self._own(torch.rand(self._batch_size * self._part[1], 1, 1, 1, generator=generator))[: len(images)]
        images = torch.where(mirrored < 0.5, images.flip(-1), images)
        strengths = dict(self._options["augment"])
        noise = strengths.pop("noise")
        augment = decode_section(AugmentConfig, strengths, "task.augment")
        images = augment_images(images, augment, generator, self._part)
        images = random_noise(images, noise, generator, self._part)
        return {"images": images, "person": torch.from_numpy(persons)}

    def evaluate(self) -> dict[str, float]:
        """Scores on the validation pictures; `score` is the area under the ROC curve."""
        found = score(self._predict(self.wake, self._validation), self._validation.labels)
        recalls = {f"recall_{value}": kind["recall"] for value, kind in found["kinds"].get("distance", {}).items()}
        figures = {"score": found["auroc"], "accuracy": found["accuracy"], "f1": found["f1"], **recalls}
        return {name: float(figure) for name, figure in figures.items() if figure is not None}

    def test(self) -> dict[str, Figure]:
        """The benchmark suite on the test pictures (`tinyvla.frontends.wake.metrics`)."""
        found = score(self._predict(self.wake, self._test), self._test.labels)
        count = found["pictures"]
        figures = {
            self.score: Figure(found["auroc"], count, found["auroc_ci95"]),
            "accuracy": Figure(found["accuracy"], count, found["accuracy_ci95"]),
            "F1": Figure(found["f1"], count, found["f1_ci95"]),
        }
        for name, values in found["kinds"].items():
            for value, kind in values.items():
                figures[f"F1, {name} {value}"] = Figure(kind["f1"], kind["people"] + kind["empty"], kind["f1_ci95"])
        return {name: figure for name, figure in figures.items() if figure.value is not None}

    def examples(self) -> dict[str, Picture]:
        """An empty picture, and a person at each distance."""
        found: dict[str, Picture] = {}
        for image, label in zip(self._test.images, self._test.labels, strict=False):
            caption = f"{label.get('distance') or 'some'} person" if label["person"] else "nobody"
            if caption not in found:
                found[caption] = self.wake.eval().find(np.asarray(image)).picture
        return found

    def save(self, folder: Path, weights: dict[str, Tensor] | None = None) -> None:
        """Write a `Wake` with the thresholds that suit it."""
        wake = copy.deepcopy(self.wake)
        if weights is not None:
            wake.load_state_dict({name.removeprefix("wake."): value for name, value in weights.items()})
        persons = _persons(self._validation.labels)
        on, off = find_thresholds(self._predict(wake, self._validation), persons, self._options["false_alarms"])
        wake.options |= {"on": on, "off": off}
        wake.save(folder)

    def restore(self, folder: Path) -> None:
        saved = load_frontend(folder)
        self.wake.load_state_dict(saved.state_dict())
        self.wake.options = saved.options

    def _draw(self, step: int, generator: torch.Generator) -> tuple[np.ndarray, np.ndarray]:
        """A batch's pictures and whether a person is in each: this process's part of what all draw."""
        index, of = self._part
        if self._stream is not None:
            return self._stream.batch(step * of + index)
        drawn = self._own(torch.randint(len(self._train), (of * self._batch_size,), generator=generator))
        order = np.sort(drawn.numpy())  # as they lie on the disk
        return np.asarray(self._train.images[order]), self._persons[order]

    def _own(self, draws: Tensor) -> Tensor:
        """This process's part of what all draw for a step."""
        index = self._part[0]
        return draws[index * self._batch_size : (index + 1) * self._batch_size]

    def _predict(self, wake: Wake, pictures: LabelledScenes) -> np.ndarray:
        training = wake.training
        wake.eval()
        try:
            return predict(wake, pictures.images)
        finally:
            wake.train(training)


def _wake_vision(
    dataset: Mapping[str, Any], batch_size: int, seed: int
) -> tuple[WakeVisionStream, dict[str, LabelledScenes]]:
    """The real dataset: its training split as a stream, the others in memory."""
    size, source = dataset["image_size"], dataset["source"]
    train = WakeVisionStream(dataset["split"], size, batch_size, seed, source, dataset["buffer"])
    return train, {split: take(split, size, dataset[split], source) for split in ("validation", "test")}


def _persons(labels: list[Any]) -> np.ndarray:
    return np.array([label["person"] for label in labels], np.float32)
