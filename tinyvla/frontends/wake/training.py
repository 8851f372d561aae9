"""Training of person detection: on Wake Vision as a stream, or on generated rooms."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...augment import AugmentConfig, augment_images, random_noise
from ...ranges import check_range
from ...training.trainable import Batch, step_generator
from ..images import RgbImage
from ..registry import load_frontend
from ..training import ImageSplit, Metric, SceneSettings, VisionTask, VisionTrainable
from .dataset import WakeVisionStream, open_wake_vision, take
from .frontend import Wake, predict
from .losses import WakeLoss
from .metrics import find_thresholds, score
from .model import SIZES, check_network


@dataclass(frozen=True)
class WakeVisionSettings:
    """The real dataset in place of generated rooms.

    Args:
        split: train_quality, or train_large for pretraining; None: generated rooms.
        image_size: side in pixels.
        validation, test: number of images; None: all.
        source: folder with a copy of the hub's repository; None: the hub.
        buffer: rows in memory, from which batches are drawn.
    """

    split: str | None = None
    image_size: int = 160
    validation: int | None = None
    test: int | None = None
    source: str | None = None
    buffer: int = 2000

    def __post_init__(self) -> None:
        check_range(self, "image_size", low=SIZES[0], high=SIZES[1])
        check_range(self, "validation", "test", "buffer", low=1)
        if self.split and self.source and Path(self.source).is_dir():
            open_wake_vision(self.split, self.source)


@dataclass
class WakeAugmentation(AugmentConfig):
    """Augmentation at `image_size`; `noise` is that of `random_noise`, which generated images lack."""

    shift: int = 4
    brightness: float = 0.3
    contrast: float = 0.3
    saturation: float = 0.3
    noise: float = 0.02

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "noise", low=0, high=1)


@dataclass(frozen=True)
class WakeTask(VisionTask):
    """Settings of `task=perception/wake`.

    Args:
        network, width, image_size: of `Wake`.
        false_alarms: share of empty validation images that may reach the gate's threshold.
        augment: augmentation of the training images.
        dataset: the real dataset.
    """

    name: str = "wake"
    scenes: SceneSettings | None = field(default_factory=lambda: SceneSettings("room", 128, 20000, 1000, 2000))
    network: str = "mcunet"
    width: float = 1.0
    image_size: int = 128
    false_alarms: float = 0.01
    augment: WakeAugmentation = field(default_factory=WakeAugmentation)
    dataset: WakeVisionSettings = field(default_factory=WakeVisionSettings)

    def __post_init__(self) -> None:
        check_network(self.network, self.width)
        check_range(self, "image_size", low=SIZES[0], high=SIZES[1])
        check_range(self, "false_alarms", low=0, high=1)


class WakeTrainable(VisionTrainable[WakeTask]):
    """A `Wake`; the area under the ROC curve on validation images selects the best.

    Arguments are those of `VisionTrainable`. Labels of the images are those of `tinyvla.frontends.wake.dataset`.
    """

    settings = WakeTask
    score = "area under the ROC curve"

    def build(self) -> None:
        task = self.task
        self.wake = Wake(task.network, task.width, task.image_size)
        self.module = WakeLoss(self.wake)
        self._stream: WakeVisionStream | None = None
        if task.dataset.split is not None:
            self._stream, self.data = _open_wake_vision(
                task.dataset, task.dataset.split, self.trainer.batch_size, self.seed
            )
        else:
            self._persons = _persons(self.data["train"].labels)

    def batch(self, step: int) -> Batch:
        """images (B, 3, image_size, image_size) float in [0, 1], augmented; person (B,) 0 or 1."""
        generator = step_generator(self.seed, step)
        arrays, persons = self._draw(step, generator)
        size = (self.task.image_size,) * 2
        images = torch.from_numpy(arrays).permute(0, 3, 1, 2).float() / 255
        if images.shape[-2:] != size:
            images = F.interpolate(images, size, mode="bilinear", antialias=True, align_corners=False)
        draws = torch.rand(self.trainer.batch_size * self.of, 1, 1, 1, generator=generator)
        images = torch.where(self._own_part(draws)[: len(images)] < 0.5, images.flip(-1), images)
        images = augment_images(images, self.task.augment, generator, self.part)
        images = random_noise(images, self.task.augment.noise, generator, self.part)
        return {"images": images, "person": torch.from_numpy(persons)}

    def evaluate(self) -> dict[str, float]:
        """Metrics on the validation images; `score` is the area under the ROC curve."""
        scores = score(self._predict(self.wake, "validation"), self.data["validation"].labels)
        recalls = {f"recall_{value}": kind["recall"] for value, kind in scores["kinds"].get("distance", {}).items()}
        metrics = {"score": scores["auroc"], "accuracy": scores["accuracy"], "f1": scores["f1"], **recalls}
        return {name: float(value) for name, value in metrics.items() if value is not None}

    def test(self) -> dict[str, Metric]:
        """Benchmark suite on the test images (`tinyvla.frontends.wake.metrics`)."""
        scores = score(self._predict(self.wake, "test"), self.data["test"].labels)
        count = scores["images"]
        metrics = {
            self.score: Metric(scores["auroc"], count, scores["auroc_ci95"]),
            "accuracy": Metric(scores["accuracy"], count, scores["accuracy_ci95"]),
            "F1": Metric(scores["f1"], count, scores["f1_ci95"]),
        }
        for name, values in scores["kinds"].items():
            for value, kind in values.items():
                metrics[f"F1, {name} {value}"] = Metric(kind["f1"], kind["people"] + kind["empty"], kind["f1_ci95"])
        return {name: metric for name, metric in metrics.items() if metric.value is not None}

    def examples(self) -> dict[str, RgbImage]:
        """An empty image, and one with a person per distance."""
        examples: dict[str, RgbImage] = {}
        for image, label in zip(self.data["test"].images, self.data["test"].labels, strict=False):
            caption = f"{label.get('distance') or 'some'} person" if label["person"] else "nobody"
            if caption not in examples:
                examples[caption] = self.wake.eval().find(np.asarray(image)).image
        return examples

    def save(self, folder: Path, weights: Mapping[str, Tensor] | None = None) -> None:
        """Write a `Wake` with thresholds chosen on the validation images."""
        wake = copy.deepcopy(self.wake)
        if weights is not None:
            wake.load_state_dict({name.removeprefix("wake."): value for name, value in weights.items()})
        persons = _persons(self.data["validation"].labels)
        on, off = find_thresholds(self._predict(wake, "validation"), persons, self.task.false_alarms)
        wake.options |= {"on": on, "off": off}
        wake.save(folder)

    def restore(self, folder: Path) -> None:
        saved = load_frontend(folder)
        self.wake.load_state_dict(saved.state_dict())
        self.wake.options = saved.options

    def _draw(self, step: int, generator: torch.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Images of this process's part of a batch, and 1 for each image with a person."""
        if self._stream is not None:
            return self._stream.batch(step * self.of + self.index)
        count = self.of * self.trainer.batch_size
        numbers = self._own_part(torch.randint(len(self.data["train"]), (count,), generator=generator))
        order = np.sort(numbers.numpy())  # the order on disk
        return np.asarray(self.data["train"].images[order]), self._persons[order]

    def _own_part(self, draws: Tensor) -> Tensor:
        """This process's part of the random draws of all processes."""
        size = self.trainer.batch_size
        return draws[self.index * size : (self.index + 1) * size]

    def _predict(self, wake: Wake, split: str) -> np.ndarray:
        training = wake.training
        wake.eval()
        try:
            return predict(wake, self.data[split].images)
        finally:
            wake.train(training)


def _open_wake_vision(
    dataset: WakeVisionSettings, split: str, batch_size: int, seed: int
) -> tuple[WakeVisionStream, dict[str, ImageSplit]]:
    """Training split of the real dataset as a stream, and the other splits in memory."""
    train = WakeVisionStream(split, dataset.image_size, batch_size, seed, dataset.source, dataset.buffer)
    counts = {"validation": dataset.validation, "test": dataset.test}
    return train, {name: take(name, dataset.image_size, count, dataset.source) for name, count in counts.items()}


def _persons(labels: list[Any]) -> np.ndarray:
    return np.array([label["person"] for label in labels], np.float32)
