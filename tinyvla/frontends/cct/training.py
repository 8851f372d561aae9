"""Training a classifier of pictures from their labels: `train.py task=perception/cct`."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from ...encoders import Classifier
from ...training.sample_order import sample_order
from ...training.trainable import Batch
from .. import Picture
from ..labelled_images import LabelledPictures, load_pictures
from ..training import Figure, VisionTrainable, share
from ..views import RandomView, plain_view

_PREFIX = "classifier."
_EXAMPLES = 12


class Learner(nn.Module):
    """A classifier and its loss on a batch: images (B, 3, S, S) in [0, 1] and labels (B,) long."""

    def __init__(self, classifier: Classifier, label_smoothing: float = 0.0):
        super().__init__()
        self.classifier, self.label_smoothing = classifier, label_smoothing

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, float] | None]:
        loss, logits = self.loss(batch)
        return loss, {"accuracy": (logits.argmax(-1) == batch["labels"]).float().mean().item()}

    def loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Scalar loss and logits (B, classes)."""
        logits = self.classifier(batch["images"])
        return F.cross_entropy(logits.float(), batch["labels"], label_smoothing=self.label_smoothing), logits


class LabelledViews(Dataset):
    """Random views of pictures with their labels by position, epoch * pictures + picture; every epoch has others."""

    def __init__(self, pictures: LabelledPictures, view: RandomView, seed: int):
        self.pictures, self.view, self.seed = pictures, view, seed

    def __getitem__(self, position: int) -> dict[str, Any]:
        position, index = int(position), int(position) % len(self.pictures)
        seed = int(np.random.SeedSequence([self.seed, position]).generate_state(1)[0])
        return {"images": self.view(self.pictures[index], seed), "labels": int(self.pictures.labels[index])}


class Steps:
    """Positions of the samples of every step from `start` on; a `batch_sampler` of torch's DataLoader.

    Args:
        pictures: in an epoch; each has its own order.
        epochs: after so many the positions begin again; None: never.
        part: which process this is, of how many that have batches of their own in every step.
    """

    def __init__(
        self,
        pictures: int,
        batch_size: int,
        seed: int,
        start: int,
        epochs: int | None = None,
        part: tuple[int, int] = (0, 1),
    ):
        self.part, self.pictures, self.batch_size, self.start, self.epochs = part, pictures, batch_size, start, epochs
        self._order = sample_order(pictures, seed)

    def __iter__(self) -> Iterator[list[int]]:
        step = self.start
        while True:
            batch = step * self.part[1] + self.part[0]
            places = torch.arange(batch * self.batch_size, (batch + 1) * self.batch_size)
            epochs = places // self.pictures
            if self.epochs:
                epochs = epochs % self.epochs
            yield (epochs * self.pictures + self._order(int(places[0]), self.batch_size)).tolist()
            step += 1


class ClassificationTrainable(VisionTrainable):
    """A classifier that learns from labels.

    Args:
        options: of configs/task/perception/cct.yaml: model, network (further options of it), image_size, pretrained,
            label_smoothing, view, workers and source; and `trainer` with its batch size.
        data: scenes by split (see envs/scenes) for `source=objects`; other sources need none.
        seed: of everything random.
        part: which process this is, of how many that share a step.

    Raises UserError for a model that there is not, and for pictures that are missing or do not fit.
    """

    module: Learner
    score = "accuracy"

    def __init__(self, options: Mapping[str, Any], data: Mapping[str, Any], seed: int, part: tuple[int, int] = (0, 1)):
        self.options, self.data, self.seed, self.part = options, data, seed, part
        source = options["source"]
        self.train_pictures = load_pictures(source, "train", data.get("train"))
        classes = self.train_pictures.classes
        self.validation_pictures = load_pictures(source, "validation", data.get("validation"), classes)
        self.view = RandomView(options["image_size"], **options["view"])
        torch.manual_seed(seed)
        classifier = Classifier(
            options["model"], classes, options["image_size"], options["pretrained"] or False, **options["network"]
        )
        self.module = self._learner(classifier)
        self._batches: Iterator[Batch] = iter(())

    def _learner(self, classifier: Classifier) -> Learner:
        return Learner(classifier, self.options["label_smoothing"])

    def _samples(self) -> tuple[Dataset, int | None]:
        """What is learned from, by position, and how many epochs of it there are."""
        return LabelledViews(self.train_pictures, self.view, self.seed), None

    def start(self, step: int) -> None:
        samples, epochs = self._samples()
        batch_size = self.options["trainer"]["batch_size"]
        steps = Steps(len(self.train_pictures), batch_size, self.seed, step, epochs, self.part)
        self._batches = iter(
            DataLoader(
                samples,
                batch_sampler=steps,  # type: ignore[arg-type]
                num_workers=self.options["workers"],
                generator=torch.Generator(),  # the loader would draw from torch's own
            )
        )

    def batch(self, step: int) -> Batch:
        return next(self._batches)

    def evaluate(self) -> dict[str, float]:
        """Accuracy on the validation pictures, which is the score, and the cross-entropy."""
        right, loss = evaluate(self.module.classifier, self.validation_pictures)
        return {"score": right / len(self.validation_pictures), "cross_entropy": loss}

    def test(self) -> dict[str, Figure]:
        pictures = self.test_pictures()
        return {"accuracy": share(evaluate(self.module.classifier, pictures)[0], len(pictures))}

    def examples(self) -> dict[str, Picture]:
        """Some test pictures, by what the classifier takes them for."""
        pictures, classifier = self.test_pictures(), self.module.classifier
        found = {}
        for number in np.linspace(0, len(pictures) - 1, _EXAMPLES).astype(int).tolist():
            told = int(predict(classifier, pictures, range(number, number + 1)).argmax())
            name, true = pictures.classes[told], pictures.classes[pictures.labels[number]]
            caption = f"{number} {name}" if name == true else f"{number} {name} not {true}"
            found[caption] = pictures[number].permute(1, 2, 0).numpy()
        return found

    def restore(self, folder: Path) -> None:
        self.module.classifier.net.load_state_dict(Classifier.load(folder).net.state_dict())

    def test_pictures(self) -> LabelledPictures:
        source, classes = self.options["source"], self.train_pictures.classes
        return load_pictures(source, "test", self.data.get("test"), classes)

    def save(self, folder: Path, weights: dict[str, Tensor] | None = None) -> None:
        """Write the classifier; `tinyvla.encoders.Classifier.load` reads it, and so does `vision_pretrained`."""
        own = None if weights is None else {name.removeprefix(_PREFIX): each for name, each in weights.items()}
        self.module.classifier.save(folder, own)


def evaluate(classifier: Classifier, pictures: LabelledPictures, batch_size: int = 256) -> tuple[int, float]:
    """How many pictures, seen whole, a classifier has right, and its mean cross-entropy."""
    right, loss = 0, 0.0
    for start in range(0, len(pictures), batch_size):
        numbers = range(start, min(start + batch_size, len(pictures)))
        logits, labels = predict(classifier, pictures, numbers), torch.from_numpy(pictures.labels[numbers])
        right += int((logits.argmax(-1) == labels).sum())
        loss += float(F.cross_entropy(logits, labels, reduction="sum"))
    return right, loss / len(pictures)


@torch.no_grad()
def predict(classifier: Classifier, pictures: LabelledPictures, numbers: range) -> Tensor:
    """Logits (n, classes) of some pictures, in evaluation mode."""
    was_training, device = classifier.training, next(classifier.parameters()).device
    classifier.eval()
    images = torch.stack([plain_view(pictures[number], classifier.image_size) for number in numbers])
    logits = classifier(images.to(device)).float().cpu()
    classifier.train(was_training)
    return logits
