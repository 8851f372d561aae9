"""Training TinySAM on pictures whose every object is labelled, with or without a teacher."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...augment import random_colour
from ...errors import UserError
from ...training import Batch, sample_order, step_generator
from .. import Picture
from ..training import Figure, VisionTrainable
from . import SIZES, Everything, Segmenter, SegmenterTraining, TinySAM, inherit_decoder, load_segmenter
from .metrics import score_masks, summarise

COLOUR = (0.2, 0.2, 0.2)  # jitter of brightness, contrast and saturation


class SamTrainable(VisionTrainable):
    """A segmenter, its losses, and batches of pictures with the masks of some of their objects.

    Args:
        options: of configs/task/perception/tinysam.yaml:
            size: one of `SIZES`, for a segmenter from scratch.
            pretrained: a folder, file or hub id to begin with instead (`load_segmenter`), or None.
            teacher: the same, to distil from, or None. The student begins with the teacher's decoder.
            hard_prompts, max_rounds: further points where the prediction is wrong, 0 to `max_rounds` of them.
            prompts: objects a picture, half of them prompted with points and half with boxes.
            min_pixels: objects of which less is seen are left out.
            weights: of the distillation's losses, `embedding`, `token` and `output`.
            scored: how many of the validation and of the test pictures are looked at.
            everything: fields of `Everything`, kept with the model.
        pictures: of the splits train, validation and test, with `images` uint8 (N, S, S, 3) and `instances` uint8
            (N, S, S), where 0 is what no object covers.
        seed: of everything random.
        part: (index, of) of the processes that share a run; each has batches of `trainer.batch_size` of its own.

    Raises UserError for options that do not fit each other or the pictures.
    """

    score = "mean IoU for a point and for a box"
    module: SegmenterTraining

    def __init__(
        self, options: Mapping[str, Any], pictures: Mapping[str, Any], seed: int, part: tuple[int, int] = (0, 1)
    ):
        self.options, self.pictures, self.seed, self._part = options, pictures, seed, part
        torch.manual_seed(seed)
        model = _make_model(options)
        side, given = model.config.image_size, pictures["train"].images.shape[1]
        if side != given:
            raise UserError(
                f"the pictures have {given} pixels a side and the segmenter sees {side}; "
                f"use task.scenes.image_size={side}"
            )
        teacher = load_segmenter(options["teacher"]) if options["teacher"] else None
        self.module = SegmenterTraining(model, teacher, options["weights"], options["hard_prompts"])
        if teacher and not options["pretrained"]:
            inherit_decoder(model, teacher)
        self._order = sample_order(len(pictures["train"]), seed)

    def batch(self, step: int) -> Batch:
        (index, of), size = self._part, self.options["trainer"]["batch_size"]
        rng = np.random.default_rng([self.seed, step, index])
        indices = np.asarray(self._order((step * of + index) * size, size))
        images, masks, boxes = zip(*(self._sample(int(each), rng) for each in indices), strict=True)
        pictures = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2) / 255
        return {
            "images": random_colour(pictures, *COLOUR, step_generator(self.seed, step * of + index)),
            "masks": torch.from_numpy(np.stack(masks)),
            "boxes": torch.from_numpy(np.stack(boxes)),
            "rounds": torch.tensor(rng.integers(self.options["max_rounds"] + 1)),
        }

    def _sample(self, index: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """A picture, half of the times mirrored, and of P objects the masks (P, S, S) and jittered boxes (P, 4)."""
        image, instances = self.pictures["train"].images[index], self.pictures["train"].instances[index]
        if rng.random() < 0.5:
            image, instances = image[:, ::-1], instances[:, ::-1]
        pixels = np.bincount(instances.ravel())
        seen = np.flatnonzero(pixels >= self.options["min_pixels"])
        objects = seen[seen > 0] if (seen > 0).any() else seen
        count = self.options["prompts"]
        clicked = (count + 1) // 2
        # What no object covers is a region too, or everything mode would not know what to make of a point there.
        chosen = np.concatenate([rng.choice(seen, clicked), rng.choice(objects, count - clicked)])
        masks = instances[None] == chosen[:, None, None]
        return np.ascontiguousarray(image), masks, np.stack([jittered_box(mask, rng) for mask in masks])

    def evaluate(self) -> dict[str, float]:
        """Mean IoU on validation pictures for an interior point and a box; `score` is their mean."""
        found = self._score("validation", ("point", "box"))
        means = {mode: float(summarise(each)["mean_iou"]) for mode, each in found.items()}
        return {"score": sum(means.values()) / len(means), **means}

    def test(self) -> dict[str, Figure]:
        """Mean IoU on test pictures, with bootstrap intervals over pictures."""
        found = self._score("test", ("point", "box", "random_point", "points", "everything"))
        both = [np.concatenate(pair) for pair in zip(found["point"], found["box"], strict=True)]
        figures = {mode: summarise(each) for mode, each in {"point and box": both, **found}.items()}
        return {
            mode: Figure(figure["mean_iou"], figure["objects"], tuple(figure["ci95"]))
            for mode, figure in figures.items()
        }

    def examples(self) -> dict[str, Picture]:
        """What everything mode makes of the first test pictures."""
        frontend = TinySAM.of(self.module.model.eval(), self._everything())
        images = self.pictures["test"].images[:4]
        return {f"everything {index}": frontend.find(np.asarray(image)).picture for index, image in enumerate(images)}

    def save(self, folder: Path, weights: dict[str, Tensor] | None = None) -> None:
        frontend = TinySAM.of(Segmenter(self.module.model.config), self._everything())
        frontend.load_state_dict(weights or self.module.state_dict())
        frontend.save(folder)

    def _everything(self) -> Everything:
        return Everything(**self.options["everything"])

    def _score(self, split: str, modes: Sequence[str]) -> dict[str, list[np.ndarray]]:
        model, training = self.module.model, self.module.training
        self.module.eval()
        found = score_masks(model, self.pictures[split], self.options["scored"], modes, self._everything(), self.seed)
        self.module.train(training)
        return found


def _make_model(options: Mapping[str, Any]) -> Segmenter:
    if options["pretrained"]:
        return load_segmenter(options["pretrained"])
    if options["size"] not in SIZES:
        raise UserError(f"there is no size '{options['size']}' of TinySAM; use one of {', '.join(SIZES)}")
    return Segmenter(SIZES[options["size"]])


def jittered_box(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The box around a mask, each side moved by a tenth of the box's extent (SAM, appendix A): (4,) float32."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    low = np.array([columns[0], rows[0]], np.float32)
    high = np.array([columns[-1] + 1, rows[-1] + 1], np.float32)
    moves = rng.normal(0, 0.1, (2, 2)) * (high - low)
    limits = np.array(mask.shape[::-1], np.float32)
    low, high = np.clip(low + moves[0], 0, limits - 1), np.clip(high + moves[1], 1, limits)
    return np.concatenate([low, np.maximum(high, low + 1)]).astype(np.float32)
