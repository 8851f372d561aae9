"""Training a small classifier from a large one's stored answers: `train.py task=perception/tinyvit`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
from torch import Tensor
from torch.utils.data import Dataset

from ...encoders import Classifier, timm_name
from ...errors import UserError
from ...training.trainable import Batch
from ..cct.training import ClassificationTrainable, Learner
from ..labelled_images import LabelledPictures
from .logit_store import Contents, LogitStore
from .losses import Teacher, online_loss, soft_label_loss
from .stored_answers import StoredAnswers, check_logits, save_logits


class Student(Learner):
    """A classifier that learns from a teacher's answers: stored (values, indices) in its batches, or live."""

    def __init__(self, classifier: Classifier, teacher: Teacher | None = None):
        super().__init__(classifier)
        self._teacher = teacher

    def loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        logits = self.classifier(batch["images"])
        if self._teacher is not None:
            return online_loss(logits, self._teacher(batch["images"])), logits
        return soft_label_loss(logits, batch["values"], batch["indices"]), logits

    def forward(self, batch: Batch) -> tuple[Tensor, None]:
        return self.loss(batch)[0], None


class DistillationTrainable(ClassificationTrainable):
    """A student of a teacher's stored answers, or of the live teacher with `online`.

    Args:
        options: of configs/task/perception/tinyvit.yaml: those of a classification, and teacher (a classifier's folder
            or run, or the name of a timm model that has weights for these very classes), store (the file), k, epochs,
            check (samples that the teacher answers again before the student begins) and online; device, where the
            teacher answers, the CPU if it is left out.
        data, seed, part: as ClassificationTrainable has them.

    Raises UserError as ClassificationTrainable does, and for a teacher whose classes are not those of the pictures.
    """

    def _learner(self, classifier: Classifier) -> Learner:
        options = self.options
        if options["online"]:
            return Student(classifier, load_teacher(options["teacher"], self.train_pictures))
        self.store = fill_store(options, self.train_pictures, self.view.describe())
        self.store.require_classes(len(classifier.classes), "student")
        return Student(classifier)

    def _samples(self) -> tuple[Dataset, int | None]:
        if self.options["online"]:
            return super()._samples()
        return StoredAnswers(self.store, self.train_pictures), self.store.contents.epochs


def fill_store(options: Mapping[str, Any], pictures: LabelledPictures, view: dict[str, Any]) -> LogitStore:
    """Pass 1, as far as it is not done: the store with all of a teacher's answers. The teacher is gone afterwards.

    Students of any seed may share it.

    Raises UserError if the store is of something else, or, with `check`, the teacher does not say the same again.
    """
    contents = Contents(
        images=len(pictures),
        epochs=options["epochs"],
        classes=len(pictures.classes),
        k=min(options["k"], len(pictures.classes)),
        teacher=str(options["teacher"]),
        checksum=pictures.checksum,
        view=view,
    )
    path, teacher = Path(options["store"]), None
    if options["check"] or not path.exists() or LogitStore(path).epochs(whole=False):
        teacher = load_teacher(options["teacher"], pictures)  # one that does not fit leaves no store
    store = LogitStore.create(path, contents)
    if teacher:
        device = options.get("device", "cpu")
        save_logits(store, pictures, teacher, workers=options["workers"], device=device)
        if options["check"]:
            check_logits(store, pictures, teacher, options["check"], device)
    return store


def load_teacher(name: str, pictures: LabelledPictures) -> Teacher:
    """The teacher of that name: a classifier's folder or run, or a timm model with weights of its own.

    Raises UserError if there is none, or its classes are not those of the pictures.
    """
    if Path(name).expanduser().is_dir():
        teacher = Classifier.load(Path(name).expanduser())
        if teacher.classes != pictures.classes:
            raise UserError(
                f"the teacher {name} knows {len(teacher.classes)} classes, others than the {len(pictures.classes)} of "
                "the pictures; train one on these pictures: python train.py task=perception/cct"
            )
        return Teacher(teacher, teacher.image_size)
    released = timm.get_pretrained_cfg(timm_name(name))
    if released is None or not released.has_weights:
        raise UserError(f"timm knows no model '{name}' with weights; give such a name or the folder of a classifier")
    if released.num_classes != len(pictures.classes):
        raise UserError(
            f"the teacher {name} knows {released.num_classes} classes and the pictures have {len(pictures.classes)}; "
            "give the folder of one that was trained on them: python train.py task=perception/cct"
        )
    size = released.input_size[-1]
    return Teacher(Classifier(name, pictures.classes, size, pretrained=True), size)
