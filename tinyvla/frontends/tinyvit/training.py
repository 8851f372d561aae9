"""Training of a small classifier on a large one's predictions, stored or live."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
from torch.utils.data import Dataset

from ...errors import UserError
from ...ranges import check_range
from ..cct.training import CctTask, ClassifierTrainable
from ..classification_images import ClassificationImages
from ..classifier import Classifier, check_classifier
from .logit_store import Contents, LogitStore
from .losses import Teacher, TinyVitLoss
from .model import timm_name
from .stored_logits import StoredLogits, check_logits, save_logits


@dataclass(frozen=True)
class TinyVitTask(CctTask):
    """Settings of `task=perception/tinyvit`: those of a classifier, and the teacher.

    Args:
        model: the student.
        teacher: run folder of a classifier (task=perception/cct), or a timm model with weights for these classes.
        store: file of the stored predictions. Runs that name the same file share it.
        k: number of stored classes per image, at most all.
        epochs: number of stored epochs; they repeat after the last.
        check: number of views on which the store is compared with the teacher before training; 0: none.
        online: use a live teacher and no store.
    """

    name: str = "tinyvit"
    model: str = "tinyvit_5m"
    image_size: int = 64
    teacher: str = ""
    store: str = "teacher.logits"
    k: int = 100
    epochs: int = 20
    check: int = 32
    online: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "k", "epochs", low=1)
        check_range(self, "check", low=0)
        if Path(self.teacher).expanduser().is_dir() and self.teacher:
            check_classifier(Path(self.teacher).expanduser())
        elif self.teacher:
            _released(self.teacher)


class TinyVitTrainable(ClassifierTrainable[TinyVitTask]):
    """A student of a teacher's stored predictions, or with `online` of the live teacher.

    Arguments are those of `VisionTrainable`. The teacher computes on `device`.

    Raises UserError as `ClassifierTrainable`, and for a teacher whose classes are not those of the images.
    """

    settings = TinyVitTask
    module: TinyVitLoss

    def _make_loss(self, classifier: Classifier) -> TinyVitLoss:
        if self.task.online:
            return TinyVitLoss(classifier, load_teacher(self.task.teacher, self.train_images))
        self.store = fill_store(self.task, self.train_images, self.view.describe(), self.device)
        self.store.require_classes(len(classifier.classes), "student")
        return TinyVitLoss(classifier)

    def _samples(self) -> tuple[Dataset, int | None]:
        if self.task.online:
            return super()._samples()
        return StoredLogits(self.store, self.train_images), self.store.contents.epochs


def fill_store(
    task: TinyVitTask, images: ClassificationImages, view: dict[str, Any], device: str = "cpu"
) -> LogitStore:
    """Store with all predictions of a teacher. Missing epochs are computed; students of any seed may share it.

    Raises UserError if the store holds other predictions, or, with `check`, if the teacher predicts something else.
    """
    contents = Contents(
        images=len(images),
        epochs=task.epochs,
        classes=len(images.classes),
        k=min(task.k, len(images.classes)),
        teacher=task.teacher,
        checksum=images.checksum,
        view=view,
    )
    path, teacher = Path(task.store), None
    if task.check or not path.exists() or LogitStore(path).epochs(whole=False):
        teacher = load_teacher(task.teacher, images)  # before the store, so that an unsuitable teacher leaves none
    store = LogitStore.create(path, contents)
    if teacher:
        save_logits(store, images, teacher, workers=task.workers, device=device)
        if task.check:
            check_logits(store, images, teacher, task.check, device)
    return store


def load_teacher(name: str, images: ClassificationImages) -> Teacher:
    """Teacher from a classifier's folder or run, or a timm model with weights.

    Raises UserError if there is none, or if its classes are not those of the images.
    """
    if Path(name).expanduser().is_dir():
        teacher = Classifier.load(Path(name).expanduser())
        if teacher.classes != images.classes:
            raise UserError(
                f"the teacher {name} knows {len(teacher.classes)} classes, others than the {len(images.classes)} of "
                "the images; train one on these images: python train.py task=perception/cct"
            )
        return Teacher(teacher, teacher.image_size)
    released = _released(name)
    if released.num_classes != len(images.classes):
        raise UserError(
            f"the teacher {name} knows {released.num_classes} classes and the images have {len(images.classes)}; "
            "give the folder of a model that was trained on them: python train.py task=perception/cct"
        )
    size = released.input_size[-1]
    return Teacher(Classifier(name, images.classes, size, pretrained=True), size)


def _released(name: str) -> Any:
    """timm's description of released weights. Raises UserError if there are none of that name."""
    released = timm.get_pretrained_cfg(timm_name(name))
    if released is None or not released.has_weights:
        raise UserError(f"timm knows no model '{name}' with weights; give such a name or the folder of a classifier")
    return released
