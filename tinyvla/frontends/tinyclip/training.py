"""Training TinyCLIP on pictures with captions: a teacher from nothing, or a student of one."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from transformers import CLIPModel

from ...augment import AugmentConfig, augment_images
from ...decoding import decode_section
from ...errors import UserError
from ...training import sample_order
from ...training.trainable import Batch, step_generator
from .. import Picture
from ..training import Figure, VisionTrainable
from . import TinyCLIP
from .inherit import inherit
from .losses import Pairs, distillation_loss
from .masks import MaskedClip
from .metrics import Gallery, bootstrap_interval, make_galleries, recalls
from .model import TOWERS, ShapedClip, embed_ids, embed_pixels

MAX_SCALE = 100.0  # of the logits, as CLIP bounds it
DIRECTIONS = ("image_to_text", "text_to_image")
WAYS = ("none", "manual", "masks")


class ClipTrainable(VisionTrainable):
    """A CLIP that learns from captions and, where there is one, from a teacher.

    Args:
        options: the task's configuration:
            teacher: whose affinities are mimicked: a folder, a run's folder, a hub id, or None.
            affinity: weight of affinity mimicking beside the contrastive loss, between 0 (off) and 1.
            inherit: `none`, the weights begin at random; `manual`, evenly chosen from a larger model's; `masks`, from a
                larger model whose masks learn what to keep.
            inherit_from: the larger model; None: the teacher. The stage before this one, in progressive distillation.
            vision, text: `layers`, `width`, `heads` and FFN `units` of the towers; None: as the teacher has.
            keep, mask_share, mask_lr: of `masks`: share of the parameters to keep, share of the steps in which the
                masks learn, and their learning rate.
            model: further sizes of a model that begins from nothing, see `TinyCLIP.new`.
            gallery, augment, trainer: as in configs/task/perception/tinyclip.yaml.
        data: `train`, `validation` and, for `test`, `test`: each with `images` uint8 (N, S, S, 3) and `labels` that
            have `captions` and `objects`.
        seed: of weights, order and draws.
        part: this process's part of the batch, (index, of).

    Raises UserError for options that do not go together.
    """

    module: "Learner"
    score = "recall@1, image to text and text to image"

    def __init__(
        self, options: Mapping[str, Any], data: Mapping[str, Any], seed: int = 0, part: tuple[int, int] = (0, 1)
    ):
        self._options, self._data, self._seed, self._part = options, data, seed, part
        _check(options)
        torch.manual_seed(seed)
        teacher = TinyCLIP.from_pretrained(options["teacher"]) if options["teacher"] else None
        self.frontend = self._begin(teacher)
        clip = self.frontend.clip
        student = MaskedClip(clip, options["keep"]) if options["inherit"] == "masks" else clip
        self.module = Learner(student, teacher.clip if teacher else None, options["affinity"])
        self._order = sample_order(len(data["train"].labels), seed)
        self._galleries = make_galleries(data["validation"].labels, options["gallery"])

    def _begin(self, teacher: TinyCLIP | None) -> TinyCLIP:
        """The model before its first step."""
        options = self._options
        larger = TinyCLIP.from_pretrained(options["inherit_from"]) if options["inherit_from"] else teacher
        if larger is None:
            scenes = self._data["train"]
            captions = (text for label in scenes.labels for text in label["captions"])
            size = scenes.images.shape[1]
            return TinyCLIP.new(captions, options["vision"], options["text"], image_size=size, **options["model"])
        if teacher and _inputs(teacher) != _inputs(larger):
            raise UserError(
                f"{options['inherit_from']} and its teacher {options['teacher']} take pictures or texts of different "
                "kinds; distil a model that began as that teacher did"
            )
        thins_itself = options["inherit"] == "masks"
        small = inherit(larger.clip, {} if thins_itself else {name: options[name] or {} for name in TOWERS})
        if options["inherit"] == "none":
            small = ShapedClip(small.config)
        return TinyCLIP(small, larger.tokenizer, larger.processor)

    def batch(self, step: int) -> Batch:
        trainer, (index, of), scenes = self._options["trainer"], self._part, self._data["train"]
        size = trainer["batch_size"]
        generator = step_generator(self._seed, step * of + index)
        chosen = self._order((step * of + index) * size, size).tolist()
        pictures = torch.from_numpy(np.stack([scenes.images[i] for i in chosen])).permute(0, 3, 1, 2).float() / 255
        wordings = [scenes.labels[i]["captions"] for i in chosen]
        draws = torch.rand(size, generator=generator).tolist()
        texts = [texts[int(draw * len(texts))] for texts, draw in zip(wordings, draws, strict=True)]
        learning = max(1.0, self._options["mask_share"] * trainer["steps"])
        augment = decode_section(AugmentConfig, self._options["augment"], "task.augment")
        return {
            "pixels": self.frontend.pixels(augment_images(pictures, augment, generator)),
            "ids": self.frontend.ids(texts),
            "progress": step / learning,
        }

    def make_optimizer(self, lr: float, weight_decay: float) -> Optimizer:
        if not self.module.masked:
            return super().make_optimizer(lr, weight_decay)
        odds, multipliers = self.module.masked.mask_parameters()
        apart = {id(parameter) for parameter in (*odds, multipliers)}
        weights = [p for p in self.module.parameters() if id(p) not in apart]
        masks = {"weight_decay": 0.0, "lr": self._options["mask_lr"]}
        groups: list[dict[str, Any]] = [
            {"params": [p for p in weights if p.ndim > 1], "weight_decay": weight_decay},
            {"params": [p for p in weights if p.ndim <= 1], "weight_decay": 0.0},
            masks | {"params": odds},
            masks | {"params": [multipliers], "maximize": True},
        ]
        return AdamW(groups, lr=lr, fused=True)

    def averaged_parameters(self) -> dict[str, nn.Parameter]:
        # Averages would lag behind masks, which move fast and then stand still.
        apart = ("student.log_odds", "student.multipliers")
        return {name: p for name, p in super().averaged_parameters().items() if not name.startswith(apart)}

    def phase(self) -> int:
        # While the masks close the loss rises, which is no divergence: each eighth of the way is measured by itself.
        return min(8, int(8 * self.module.progress)) if self.module.masked else 0

    def evaluate(self) -> dict[str, float]:
        """Recall@1 in galleries of validation pictures: `score` is the mean of both directions."""
        found = self.recalls("validation", self._galleries)
        return {"score": float(found.mean())} | dict(zip(DIRECTIONS, found.mean(axis=0).tolist(), strict=True))

    def test(self) -> dict[str, Figure]:
        galleries = make_galleries(self._data["test"].labels, self._options["gallery"])
        found, queries = self.recalls("test", galleries), len(galleries) * self._options["gallery"]
        columns = {"recall@1": found.mean(axis=1)} | dict(zip(DIRECTIONS, found.T, strict=True))
        return {
            name: Figure(float(values.mean()), queries, bootstrap_interval(values)) for name, values in columns.items()
        }

    @torch.no_grad()
    def recalls(self, split: str, galleries: Sequence[Gallery]) -> np.ndarray:
        """Recall@1 of each gallery of a split's pictures (n, 2): image to text, text to image."""
        with self.module.evaluating():
            return recalls(self.frontend, self._data[split].images, galleries)

    def examples(self) -> dict[str, Picture]:
        galleries = make_galleries(self._data["test"].labels, self._options["gallery"])
        with self.module.evaluating():
            return {
                f"among {len(captions)} captions {i + 1}": self.frontend.find(
                    self._data["test"].images[pictures[0]], texts=captions
                ).picture
                for i, (pictures, captions) in enumerate(galleries[:4])
            }

    def restore(self, folder: Path) -> None:
        """Go on with the model of a folder, which has no masks any more."""
        self.frontend = TinyCLIP.from_pretrained(folder)
        self.module = Learner(self.frontend.clip, None, 0.0)

    def save(self, folder: Path, weights: dict[str, Tensor] | None = None) -> None:
        learner = self.module
        if weights is not None:
            clip = ShapedClip(self.frontend.clip.config)
            learner = Learner(MaskedClip(clip, self._options["keep"]) if learner.masked else clip, None, 0.0)
            learner.load_state_dict(weights)
        TinyCLIP(learner.finished(), self.frontend.tokenizer, self.frontend.processor).save(folder)


class Learner(nn.Module):
    """The student's loss on a batch. The teacher is no part of its parameters or state."""

    def __init__(self, student: ShapedClip | MaskedClip, teacher: CLIPModel | None, affinity: float):
        super().__init__()
        self.student, self.affinity, self.progress = student, affinity, 0.0
        self._teacher = [teacher.eval().requires_grad_(False)] if teacher else []

    @property
    def masked(self) -> MaskedClip | None:
        return self.student if isinstance(self.student, MaskedClip) else None

    @property
    def clip(self) -> ShapedClip:
        return self.student.clip if isinstance(self.student, MaskedClip) else self.student

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """batch: `pixels` (B, 3, S, S), `ids` (B, L), and `progress` of the masks, which settle at 1."""
        self.progress = batch["progress"]
        if self.masked:
            if self.progress >= 1 and self.masked.is_learning:
                self.masked.settle()
            self.masked.draw()
        teacher = None
        if self._teacher and self.affinity > 0:
            self._teacher[0].to(batch["pixels"].device)
            with torch.no_grad():
                teacher = _pairs(self._teacher[0], batch)
        loss, told = distillation_loss(_pairs(self.clip, batch), teacher, self.affinity)
        if self.masked and self.masked.is_learning:
            # The aim is reached three quarters on; the rest of the way the masks have to make up their minds.
            loss = loss + self.masked.sparsity_loss(min(1.0, self.progress / 0.75))
            told["expected_share"] = self.masked.expected_share().item()
        return loss, told

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Within the block masks are 0 or 1, as they would be if the training ended now."""
        training = self.training
        self.eval()
        if self.masked:
            self.masked.draw()
        try:
            yield
        finally:
            self.train(training)

    def finished(self) -> ShapedClip:
        """The model to save: what the masks leave, or all of it."""
        return self.masked.compress() if self.masked else self.clip


def _pairs(clip: CLIPModel, batch: Batch) -> Pairs:
    scale = clip.logit_scale.clamp(max=math.log(MAX_SCALE)).exp()
    return Pairs(embed_pixels(clip, batch["pixels"]), embed_ids(clip, batch["ids"]), scale)


def _inputs(frontend: TinyCLIP) -> tuple[Any, ...]:
    """What two models must have in common to learn from the same batches."""
    vision = frontend.clip.config.vision_config
    return vision.image_size, frontend.tokenizer.get_vocab(), frontend.max_tokens


def _check(options: Mapping[str, Any]) -> None:
    larger = options["inherit_from"] or options["teacher"]
    if options["inherit"] not in WAYS:
        raise UserError(f"inherit is '{options['inherit']}'; use one of {', '.join(WAYS)}")
    if options["inherit"] != "none" and not larger:
        raise UserError("there is nothing to inherit from; give teacher=<folder or hub id>, or inherit=none")
    if not 0 <= options["affinity"] <= 1:
        raise UserError(f"affinity is {options['affinity']}; use a weight between 0 (off) and 1")
    if options["inherit"] == "masks" and not (0 < options["keep"] < 1 and 0 < options["mask_share"] < 1):
        raise UserError("inherit=masks needs keep and mask_share between 0 and 1, such as keep=0.4 mask_share=0.5")
