"""Training of an image classifier from labels."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ...augment import Part
from ...ranges import check_range
from ...training.sample_order import sample_order
from ...training.trainable import Batch
from ..classification_images import ClassificationImages, check_source, load_classification_images
from ..classifier import Classifier, check_classifier, check_network_name, check_network_options
from ..images import RgbImage
from ..training import Metric, SceneSettings, VisionTask, VisionTrainable, share
from ..views import RandomView
from .losses import ClassifierLoss
from .metrics import evaluate, predict

_PREFIX = "classifier."
_EXAMPLES = 12
MAX_SIDE = 1024  # pixels


@dataclass(frozen=True)
class ViewSettings:
    """Settings of the random views, see `RandomView`."""

    scale: float = 0.5
    flip: bool = True
    colour: float = 0.2

    def __post_init__(self) -> None:
        check_range(self, "scale", above=0, high=1)
        check_range(self, "colour", low=0, high=1)


@dataclass(frozen=True)
class CctTask(VisionTask):
    """Settings of `task=perception/cct`.

    Args:
        model: one of `classifier.NETWORKS` or of timm's models.
        network: further options of the network, such as {"global_pool": "token"}.
        image_size: side in pixels of the network's input.
        pretrained: True for the weights that timm knows, or the run folder of a classifier.
        label_smoothing: of the cross-entropy.
        view: of the random views of an image.
        workers: processes that make views; 0: a thread.
        source: `objects`, `digits`, or a folder with train/<class>/, validation/<class>/ and test/<class>/.
    """

    name: str = "cct"
    scenes: SceneSettings | None = field(default_factory=lambda: SceneSettings("table", 128, 1000, 200, 300))
    model: str = "cct_7_3x2"
    network: dict[str, Any] = field(default_factory=dict)
    image_size: int = 32
    pretrained: bool | str | None = None
    label_smoothing: float = 0.1
    view: ViewSettings = field(default_factory=ViewSettings)
    workers: int = 0
    source: str = "objects"

    def __post_init__(self) -> None:
        check_range(self, "image_size", low=8, high=MAX_SIDE)
        check_range(self, "label_smoothing", low=0, high=1)
        check_range(self, "workers", low=0)
        check_source(self.source)
        check_network_name(self.model)
        check_network_options(self.network)
        if isinstance(self.pretrained, str):
            check_classifier(self.pretrained)


class LabelledViews(Dataset):
    """Random views with labels by position = epoch * images + image; every epoch has other views."""

    def __init__(self, images: ClassificationImages, view: RandomView, seed: int):
        self.images, self.view, self.seed = images, view, seed

    def __getitem__(self, position: int) -> dict[str, Any]:
        position, index = int(position), int(position) % len(self.images)
        seed = int(np.random.SeedSequence([self.seed, position]).generate_state(1)[0])
        return {"images": self.view(self.images[index], seed), "labels": int(self.images.labels[index])}


class StepPositions:
    """Positions of the samples of every step from `start` on; a `batch_sampler` of torch's DataLoader.

    Args:
        images: number of images; each epoch has its own order.
        batch_size: samples per step and process.
        seed: of the order.
        start: first step.
        epochs: number of epochs after which the positions repeat; None: never.
        part: (index, of) of the processes that share a run.
    """

    def __init__(
        self, images: int, batch_size: int, seed: int, start: int, epochs: int | None = None, part: Part = (0, 1)
    ):
        self.part, self.images, self.batch_size, self.start, self.epochs = part, images, batch_size, start, epochs
        self._order = sample_order(images, seed)

    def __iter__(self) -> Iterator[list[int]]:
        step = self.start
        while True:
            batch = step * self.part[1] + self.part[0]
            places = torch.arange(batch * self.batch_size, (batch + 1) * self.batch_size)
            epochs = places // self.images
            if self.epochs:
                epochs = epochs % self.epochs
            yield (epochs * self.images + self._order(int(places[0]), self.batch_size)).tolist()
            step += 1


class ClassifierTrainable[Task: CctTask](VisionTrainable[Task]):
    """A classifier, trained on random views of labelled images. Arguments are those of `VisionTrainable`.

    Raises UserError for an unknown model, and for images that are missing or do not fit.
    """

    module: ClassifierLoss
    score = "accuracy"

    def build(self) -> None:
        task = self.task
        self.train_images = load_classification_images(task.source, "train", self.data.get("train"))
        self.classes = self.train_images.classes
        self.validation_images = self._images("validation")
        self.view = RandomView(task.image_size, **asdict(task.view))
        pretrained = task.pretrained or False
        classifier = Classifier(task.model, self.classes, task.image_size, pretrained, **task.network)
        self.module = self._make_loss(classifier)
        self._batches: Iterator[Batch] = iter(())

    def _make_loss(self, classifier: Classifier) -> ClassifierLoss:
        return ClassifierLoss(classifier, self.task.label_smoothing)

    def _samples(self) -> tuple[Dataset, int | None]:
        """Training samples by position, and the number of epochs; None: endless."""
        return LabelledViews(self.train_images, self.view, self.seed), None

    def _images(self, split: str) -> ClassificationImages:
        return load_classification_images(self.task.source, split, self.data.get(split), self.classes)

    def start(self, step: int) -> None:
        samples, epochs = self._samples()
        positions = StepPositions(len(self.train_images), self.trainer.batch_size, self.seed, step, epochs, self.part)
        self._batches = iter(
            DataLoader(
                samples,
                batch_sampler=positions,  # type: ignore[arg-type]
                num_workers=self.task.workers,
                generator=torch.Generator(),  # without it the loader draws from torch's global generator
            )
        )

    def batch(self, step: int) -> Batch:
        return next(self._batches)

    def evaluate(self) -> dict[str, float]:
        """Accuracy on the validation images, the score, and the cross-entropy."""
        right, loss = evaluate(self.module.classifier, self.validation_images)
        return {"score": right / len(self.validation_images), "cross_entropy": loss}

    def test(self) -> dict[str, Metric]:
        images = self.test_images()
        return {"accuracy": share(evaluate(self.module.classifier, images)[0], len(images))}

    def examples(self) -> dict[str, RgbImage]:
        """Test images by predicted class, with the true class where it differs."""
        images, classifier = self.test_images(), self.module.classifier
        examples = {}
        for number in np.linspace(0, len(images) - 1, _EXAMPLES).astype(int).tolist():
            predicted = int(predict(classifier, images, range(number, number + 1)).argmax())
            name, true = images.classes[predicted], images.classes[images.labels[number]]
            caption = f"{number} {name}" if name == true else f"{number} {name} not {true}"
            examples[caption] = images[number].permute(1, 2, 0).numpy()
        return examples

    def restore(self, folder: Path) -> None:
        self.module.classifier.net.load_state_dict(Classifier.load(folder).net.state_dict())

    def test_images(self) -> ClassificationImages:
        """Labelled images of the test split."""
        return self._images("test")

    def save(self, folder: Path, weights: Mapping[str, Tensor] | None = None) -> None:
        """Write the classifier, which `Classifier.load` reads, and `vision_pretrained` of a backbone."""
        if weights is not None:
            weights = {name.removeprefix(_PREFIX): value for name, value in weights.items()}
        self.module.classifier.save(folder, weights)


class CctTrainable(ClassifierTrainable[CctTask]):
    """A classifier that learns from labels."""

    settings = CctTask
