"""Training of TinyCLIP on images with captions: a new model, or a student of a teacher."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from ...augment import AugmentConfig, augment_images
from ...errors import UserError
from ...intervals import bootstrap_interval
from ...ranges import MAX_WIDTH, check_range
from ...training.sample_order import sample_order
from ...training.trainable import Batch, step_generator
from ..images import RgbImage
from ..training import Metric, SceneSettings, VisionTask, VisionTrainable
from .frontend import TinyCLIP
from .inherit import inherit
from .losses import TinyClipLoss
from .masks import MaskedClip
from .metrics import Gallery, make_galleries, recalls
from .model import ShapedClip

DIRECTIONS = ("image_to_text", "text_to_image")
INHERITANCE = ("none", "manual", "masks")


def _vision_tower() -> dict[str, int]:
    return {"layers": 4, "width": 128, "heads": 4, "units": 512}


def _text_tower() -> dict[str, int]:
    return {"layers": 3, "width": 128, "heads": 4, "units": 512}


def _new_model() -> dict[str, int]:
    return {"patch_size": 16, "width": 128, "vocab_size": 1024, "max_tokens": 77}


@dataclass(frozen=True)
class TinyClipTask(VisionTask):
    """Settings of `task=perception/tinyclip`.

    Args:
        teacher: model whose affinities are mimicked: a folder, a run's folder or a hub id.
        affinity: weight of affinity mimicking against the contrastive loss, from 0 (off) to 1.
        inherit: `none`, random initial weights; `manual`, evenly spaced weights of a larger model; `masks`, weights of
            a larger model that learned masks select.
        inherit_from: the larger model; None: the teacher. In progressive distillation, the previous stage.
        vision, text: `layers`, `width`, `heads` and FFN `units` of the towers; None: those of the larger model.
        keep: with `masks`, share of the parameters to keep.
        mask_share: with `masks`, share of the steps in which the masks learn.
        mask_lr: with `masks`, learning rate of the masks.
        model: further sizes of a new model, see `TinyCLIP.new`.
        gallery: images per gallery of recall@1.
        augment: augmentation of the training images.
    """

    name: str = "tinyclip"
    scenes: SceneSettings | None = field(default_factory=lambda: SceneSettings("table", 64, 8000, 1000, 2000))
    teacher: str | None = None
    affinity: float = 0.75
    inherit: str = "none"
    inherit_from: str | None = None
    vision: dict[str, Any] | None = field(default_factory=_vision_tower)
    text: dict[str, Any] | None = field(default_factory=_text_tower)
    keep: float = 0.4
    mask_share: float = 0.5
    mask_lr: float = 0.1
    model: dict[str, int] = field(default_factory=_new_model)
    gallery: int = 20
    augment: AugmentConfig = field(default_factory=lambda: AugmentConfig(shift=4))

    def __post_init__(self) -> None:
        for name, sizes in (("vision", self.vision), ("text", self.text), ("model", self.model)):
            _check_sizes(name, sizes or {})
        check_range(self, "gallery", low=2)
        check_range(self, "mask_lr", above=0)
        check_range(self, "affinity", "keep", "mask_share", low=0, high=1)
        _check(self)


class TinyClipTrainable(VisionTrainable[TinyClipTask]):
    """A CLIP that learns from captions and, with a teacher, from its affinities.

    Arguments are those of `VisionTrainable`. Labels of the images have `captions` and `objects`.

    Raises UserError for settings that do not fit each other.
    """

    settings = TinyClipTask
    score = "recall@1, image to text and text to image"
    module: TinyClipLoss

    def build(self) -> None:
        task = self.task
        teacher = TinyCLIP.from_pretrained(task.teacher) if task.teacher else None
        self.frontend = self._initial_model(teacher)
        clip = self.frontend.clip
        student = MaskedClip(clip, task.keep) if task.inherit == "masks" else clip
        self.module = TinyClipLoss(student, teacher.clip if teacher else None, task.affinity)
        self._order = sample_order(len(self.data["train"].labels), self.seed)
        self._galleries = make_galleries(self.data["validation"].labels, task.gallery)

    def _initial_model(self, teacher: TinyCLIP | None) -> TinyCLIP:
        """Model before the first step."""
        task = self.task
        larger = TinyCLIP.from_pretrained(task.inherit_from) if task.inherit_from else teacher
        if larger is None:
            scenes = self.data["train"]
            captions = (text for label in scenes.labels for text in label["captions"])
            size = scenes.images.shape[1]
            return TinyCLIP.new(captions, task.vision or {}, task.text or {}, image_size=size, **task.model)
        if teacher and _input_kind(teacher) != _input_kind(larger):
            raise UserError(
                f"{task.inherit_from} and its teacher {task.teacher} take images or texts of different kinds; "
                "distil a model that began as that teacher did"
            )
        sizes = {} if task.inherit == "masks" else {"vision": task.vision or {}, "text": task.text or {}}
        small = inherit(larger.clip, sizes)
        if task.inherit == "none":
            small = ShapedClip(small.config)
        return TinyCLIP(small, larger.tokenizer, larger.processor)

    def batch(self, step: int) -> Batch:
        scenes, size = self.data["train"], self.trainer.batch_size
        number = step * self.of + self.index
        generator = step_generator(self.seed, number)
        indices = self._order(number * size, size).tolist()
        images = torch.from_numpy(np.stack([scenes.images[i] for i in indices])).permute(0, 3, 1, 2).float() / 255
        wordings = [scenes.labels[i]["captions"] for i in indices]
        draws = torch.rand(size, generator=generator).tolist()
        texts = [texts[int(draw * len(texts))] for texts, draw in zip(wordings, draws, strict=True)]
        mask_steps = max(1.0, self.task.mask_share * self.trainer.steps)
        return {
            "pixels": self.frontend.pixels(augment_images(images, self.task.augment, generator)),
            "ids": self.frontend.ids(texts),
            "progress": step / mask_steps,
        }

    def make_optimizer(self, lr: float, weight_decay: float) -> Optimizer:
        if not self.module.masked:
            return super().make_optimizer(lr, weight_decay)
        log_odds, multipliers = self.module.masked.mask_parameters()
        excluded = {id(parameter) for parameter in (*log_odds, multipliers)}
        weights = [p for p in self.module.parameters() if id(p) not in excluded]
        masks = {"weight_decay": 0.0, "lr": self.task.mask_lr}
        groups: list[dict[str, Any]] = [
            {"params": [p for p in weights if p.ndim > 1], "weight_decay": weight_decay},
            {"params": [p for p in weights if p.ndim <= 1], "weight_decay": 0.0},
            masks | {"params": log_odds},
            masks | {"params": [multipliers], "maximize": True},
        ]
        return AdamW(groups, lr=lr, fused=True)

    def averaged_parameters(self) -> dict[str, nn.Parameter]:
        # Averages would lag behind masks, which move fast and then settle.
        excluded = ("student.log_odds", "student.multipliers")
        return {name: p for name, p in super().averaged_parameters().items() if not name.startswith(excluded)}

    def phase(self) -> int:
        # The loss rises while the masks close, which is not a divergence: each eighth has its own reference.
        return min(8, int(8 * self.module.progress)) if self.module.masked else 0

    def evaluate(self) -> dict[str, float]:
        """Recall@1 in galleries of validation images; `score` is the mean of both directions."""
        values = self.recalls("validation", self._galleries)
        return {"score": float(values.mean())} | dict(zip(DIRECTIONS, values.mean(axis=0).tolist(), strict=True))

    def test(self) -> dict[str, Metric]:
        galleries = make_galleries(self.data["test"].labels, self.task.gallery)
        values, queries = self.recalls("test", galleries), len(galleries) * self.task.gallery
        columns = {"recall@1": values.mean(axis=1)} | dict(zip(DIRECTIONS, values.T, strict=True))
        return {
            name: Metric(float(column.mean()), queries, bootstrap_interval(column)) for name, column in columns.items()
        }

    @torch.no_grad()
    def recalls(self, split: str, galleries: Sequence[Gallery]) -> np.ndarray:
        """Recall@1 in each gallery of a split (n, 2): image to text, text to image."""
        with self.module.evaluating():
            return recalls(self.frontend, self.data[split].images, galleries)

    def examples(self) -> dict[str, RgbImage]:
        galleries, images = make_galleries(self.data["test"].labels, self.task.gallery), self.data["test"].images
        with self.module.evaluating():
            return {
                f"among {len(captions)} captions {i + 1}": self.frontend.find(images[numbers[0]], texts=captions).image
                for i, (numbers, captions) in enumerate(galleries[:4])
            }

    def restore(self, folder: Path) -> None:
        """Load the model of a folder, which has no masks any more."""
        self.frontend = TinyCLIP.from_pretrained(folder)
        self.module = TinyClipLoss(self.frontend.clip, None, 0.0)

    def save(self, folder: Path, weights: Mapping[str, Tensor] | None = None) -> None:
        module = self.module
        if weights is not None:
            clip = ShapedClip(self.frontend.clip.config)
            module = TinyClipLoss(MaskedClip(clip, self.task.keep) if module.masked else clip, None, 0.0)
            module.load_state_dict(weights)
        TinyCLIP(module.finished(), self.frontend.tokenizer, self.frontend.processor).save(folder)


def _input_kind(frontend: TinyCLIP) -> tuple[Any, ...]:
    """Properties that two models must share to learn from the same batches."""
    vision = frontend.clip.config.vision_config
    return vision.image_size, frontend.tokenizer.get_vocab(), frontend.max_tokens


def _check_sizes(name: str, sizes: Mapping[str, Any]) -> None:
    for key, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= MAX_WIDTH:
            raise UserError(f"task.{name}.{key}={size} does not fit; use a whole number from 1 to {MAX_WIDTH}")
    if sizes.get("width", 0) % sizes.get("heads", 1):
        raise UserError(f"task.{name}.width={sizes['width']} must divide by task.{name}.heads={sizes['heads']}")


def _check(task: TinyClipTask) -> None:
    larger = task.inherit_from or task.teacher
    if task.inherit not in INHERITANCE:
        raise UserError(f"inherit is '{task.inherit}'; use one of {', '.join(INHERITANCE)}")
    if task.inherit != "none" and not larger:
        raise UserError("there is nothing to inherit from; give teacher=<folder or hub id>, or inherit=none")
    if not 0 <= task.affinity <= 1:
        raise UserError(f"affinity is {task.affinity}; use a weight between 0 (off) and 1")
    if task.inherit == "masks" and not (0 < task.keep < 1 and 0 < task.mask_share < 1):
        raise UserError("inherit=masks needs keep and mask_share between 0 and 1, such as keep=0.4 mask_share=0.5")
