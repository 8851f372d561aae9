"""Training of TinySAM on images with a mask of every object, with or without a teacher."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...augment import random_colour
from ...errors import UserError
from ...masks import mask_to_box
from ...ranges import check_range
from ...training.sample_order import sample_order
from ...training.trainable import Batch, step_generator
from ..images import RgbImage
from ..training import Metric, SceneSettings, VisionTask, VisionTrainable
from .everything import EverythingSettings
from .frontend import TinySAM
from .losses import DistillationWeights, TinySamLoss, inherit_decoder
from .metrics import score_masks, summarise
from .model import SIZES, Segmenter
from .released import check_segmenter, load_segmenter

COLOUR = (0.2, 0.2, 0.2)  # jitter of brightness, contrast and saturation


@dataclass(frozen=True)
class TinySamTask(VisionTask):
    """Settings of `task=perception/tinysam`.

    Args:
        size: of a new segmenter, one of `SIZES`.
        pretrained: folder, file or hub id of a segmenter to start from (`load_segmenter`).
        teacher: the same, to distil from. The student starts with the teacher's decoder.
        hard_prompts: draw further points where the prediction is wrong; else anywhere on the object.
        max_rounds: largest number of further points per step.
        prompts: objects per image, half of them prompted with points and half with boxes.
        min_pixels: smaller objects are left out.
        weights: of the losses against a teacher.
        scored: number of validation images and of test images that are scored.
        everything: settings of segment-everything, saved with the model.
    """

    name: str = "tinysam"
    scenes: SceneSettings | None = field(default_factory=lambda: SceneSettings("table", 128, 4000, 100, 200))
    size: str = "small"
    pretrained: str | None = None
    teacher: str | None = None
    hard_prompts: bool = True
    max_rounds: int = 3
    prompts: int = 8
    min_pixels: int = 12
    weights: DistillationWeights = field(default_factory=DistillationWeights)
    scored: int = 100
    everything: EverythingSettings = field(
        default_factory=lambda: EverythingSettings(
            points_per_side=16, min_score=0.4, min_stability=0.5, certain_score=0.7, certain_logit=4.0
        )
    )

    def __post_init__(self) -> None:
        check_range(self, "prompts", "min_pixels", "scored", low=1)
        check_range(self, "max_rounds", low=0)
        _check_size(self.size)
        for name in (self.pretrained, self.teacher):
            if name:
                check_segmenter(name)


class TinySamTrainable(VisionTrainable[TinySamTask]):
    """A segmenter, its losses, and batches of images with the masks of some of their objects.

    Arguments are those of `VisionTrainable`. The images have `instances` uint8 (N, S, S), where 0 is background.

    Raises UserError for settings that do not fit each other or the images.
    """

    settings = TinySamTask
    score = "mean IoU for a point and for a box"
    module: TinySamLoss

    def build(self) -> None:
        task = self.task
        model = load_segmenter(task.pretrained) if task.pretrained else _new_segmenter(task.size)
        side, image_size = model.config.image_size, self.data["train"].images.shape[1]
        if side != image_size:
            raise UserError(
                f"the images have {image_size} pixels per side and the segmenter takes {side}; "
                f"use task.scenes.image_size={side}"
            )
        teacher = load_segmenter(task.teacher) if task.teacher else None
        self.module = TinySamLoss(model, teacher, task.weights, task.hard_prompts)
        if teacher and not task.pretrained:
            inherit_decoder(model, teacher)
        self._order = sample_order(len(self.data["train"]), self.seed)

    def batch(self, step: int) -> Batch:
        size = self.trainer.batch_size
        rng = np.random.default_rng([self.seed, step, self.index])
        indices = np.asarray(self._order((step * self.of + self.index) * size, size))
        arrays, masks, boxes = zip(*(self._sample(int(index), rng) for index in indices), strict=True)
        images = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2) / 255
        return {
            "images": random_colour(images, *COLOUR, step_generator(self.seed, step * self.of + self.index)),
            "masks": torch.from_numpy(np.stack(masks)),
            "boxes": torch.from_numpy(np.stack(boxes)),
            "rounds": torch.tensor(rng.integers(self.task.max_rounds + 1)),
        }

    def _sample(self, index: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """An image, mirrored with probability 1/2, and masks (P, S, S) and jittered boxes (P, 4) of P objects."""
        image, instances = self.data["train"].images[index], self.data["train"].instances[index]
        if rng.random() < 0.5:
            image, instances = image[:, ::-1], instances[:, ::-1]
        pixels = np.bincount(instances.ravel())
        regions = np.flatnonzero(pixels >= self.task.min_pixels)
        objects = regions[regions > 0] if (regions > 0).any() else regions
        count = self.task.prompts
        clicked = (count + 1) // 2
        # Background is a region too: segment-everything also places points there.
        chosen = np.concatenate([rng.choice(regions, clicked), rng.choice(objects, count - clicked)])
        masks = instances[None] == chosen[:, None, None]
        return np.ascontiguousarray(image), masks, np.stack([jittered_box(mask, rng) for mask in masks])

    def evaluate(self) -> dict[str, float]:
        """Mean IoU on validation images for an interior point and for a box; `score` is their mean."""
        ious = self._score("validation", ("point", "box"))
        means = {mode: float(summarise(values)["mean_iou"]) for mode, values in ious.items()}
        return {"score": sum(means.values()) / len(means), **means}

    def test(self) -> dict[str, Metric]:
        """Mean IoU on test images, with bootstrap intervals over images."""
        ious = self._score("test", ("point", "box", "random_point", "points", "everything"))
        both = [np.concatenate(pair) for pair in zip(ious["point"], ious["box"], strict=True)]
        summaries = {mode: summarise(values) for mode, values in {"point and box": both, **ious}.items()}
        return {
            mode: Metric(summary["mean_iou"], summary["objects"], tuple(summary["ci95"]))
            for mode, summary in summaries.items()
        }

    def examples(self) -> dict[str, RgbImage]:
        """Everything in the first test images."""
        frontend = TinySAM.of(self.module.model.eval(), self.task.everything)
        images = self.data["test"].images[:4]
        return {f"everything {index}": frontend.find(np.asarray(image)).image for index, image in enumerate(images)}

    def save(self, folder: Path, weights: Mapping[str, Tensor] | None = None) -> None:
        frontend = TinySAM.of(Segmenter(self.module.model.config), self.task.everything)
        frontend.load_state_dict(weights or self.module.state_dict())
        frontend.save(folder)

    def _score(self, split: str, modes: Sequence[str]) -> dict[str, list[np.ndarray]]:
        model, training = self.module.model, self.module.training
        self.module.eval()
        ious = score_masks(model, self.data[split], self.task.scored, modes, self.task.everything, self.seed)
        self.module.train(training)
        return ious


def _new_segmenter(size: str) -> Segmenter:
    _check_size(size)
    return Segmenter(SIZES[size])


def _check_size(size: str) -> None:
    if size not in SIZES:
        raise UserError(f"there is no size '{size}' of TinySAM; use one of {', '.join(SIZES)}")


def jittered_box(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Box around a mask, each side moved by a tenth of the box's extent (SAM, appendix A): (4,) float32."""
    corners = np.array(mask_to_box(mask), np.float32)
    low, high = corners[:2], corners[2:]
    moves = rng.normal(0, 0.1, (2, 2)) * (high - low)
    limits = np.array(mask.shape[::-1], np.float32)
    low, high = np.clip(low + moves[0], 0, limits - 1), np.clip(high + moves[1], 1, limits)
    return np.concatenate([low, np.maximum(high, low + 1)]).astype(np.float32)
