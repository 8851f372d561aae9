"""Metrics of a segmenter on labelled images: IoU of its masks for points, boxes and everything."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt

from ...masks import mask_to_box
from .everything import EverythingSettings, segment_everything
from .model import Segmenter
from .prompts import EncodedImage, Masks, encode_image, segment_box, segment_points

MIN_PIXELS = 12  # smaller objects are not scored
CLICKS = 3


def interior_point(region: np.ndarray) -> tuple[int, int]:
    """Pixel of a bool region (H, W) that is furthest from its edge, x and y; the prompt of SAM's evaluation."""
    y, x = np.unravel_index(distance_transform_edt(np.pad(region, 1))[1:-1, 1:-1].argmax(), region.shape)
    return int(x), int(y)


def _point(model: Segmenter, image: EncodedImage, truth: np.ndarray, rng: np.random.Generator) -> Masks:
    return segment_points(model, image, [interior_point(truth)])


def _random_point(model: Segmenter, image: EncodedImage, truth: np.ndarray, rng: np.random.Generator) -> Masks:
    y, x = rng.choice(np.argwhere(truth))
    return segment_points(model, image, [(x, y)])


def _points(model: Segmenter, image: EncodedImage, truth: np.ndarray, rng: np.random.Generator) -> Masks:
    """Clicks, each in the middle of the largest error of the mask so far."""
    clicks, labels = [interior_point(truth)], [1]
    while True:
        masks = segment_points(model, image, clicks, labels)
        predicted = masks.masks[0].numpy()
        missed, extra = truth & ~predicted, predicted & ~truth
        if len(clicks) == CLICKS or not (missed | extra).any():
            return masks
        labels.append(int(missed.sum() >= extra.sum()))
        clicks.append(interior_point(missed if labels[-1] else extra))


def _box(model: Segmenter, image: EncodedImage, truth: np.ndarray, rng: np.random.Generator) -> Masks:
    return segment_box(model, image, mask_to_box(truth))


PROMPTS: dict[str, Callable[[Segmenter, EncodedImage, np.ndarray, np.random.Generator], Masks]] = {
    "point": _point,
    "random_point": _random_point,
    "points": _points,
    "box": _box,
}


def score_masks(
    model: Segmenter,
    scenes: Any,
    count: int,
    modes: Sequence[str],
    everything: EverythingSettings | None = None,
    seed: int = 0,
) -> dict[str, list[np.ndarray]]:
    """IoUs of all objects in the first `count` images, by mode, one array per image.

    Args:
        model: in evaluation mode.
        scenes: with `images` (N, S, S, 3) and `instances` (N, S, S).
        count: number of images.
        modes: of PROMPTS, or `everything`, where an object has the IoU of the mask that fits it best.
        everything: settings of the mode `everything`.
        seed: of the random points.
    """
    rng = np.random.default_rng(seed)
    scores: dict[str, list[np.ndarray]] = {mode: [] for mode in modes}
    for index in range(min(count, len(scenes))):
        instances = np.asarray(scenes.instances[index])
        pixels = np.bincount(instances.ravel())
        truths = [instances == instance for instance in np.flatnonzero(pixels >= MIN_PIXELS) if instance > 0]
        if not truths:
            continue
        image = encode_image(model, np.asarray(scenes.images[index]))
        for mode in modes:
            if mode == "everything":
                ious = best_ious(segment_everything(model, image, everything), truths)
            else:
                ious = [iou(PROMPTS[mode](model, image, truth, rng).masks[0].numpy(), truth) for truth in truths]
            scores[mode].append(np.array(ious))
    return scores


def iou(one: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of two bool masks, at least one of them not empty."""
    return float((one & other).sum() / (one | other).sum())


def best_ious(masks: Masks, truths: Sequence[np.ndarray]) -> list[float]:
    """Highest IoU with a mask for each true mask; 0 without masks."""
    predicted = masks.masks.flatten(1).float()
    true = torch.from_numpy(np.stack(truths)).flatten(1).float()
    if len(predicted) == 0:
        return [0.0] * len(truths)
    common = true @ predicted.T
    return (common / (true.sum(1, keepdim=True) + predicted.sum(1) - common)).max(1).values.tolist()


def summarise(ious: Sequence[np.ndarray], draws: int = 2000) -> dict[str, Any]:
    """Mean IoU over objects, its 95% bootstrap interval over images, and the numbers of both."""
    if not ious:
        return {"mean_iou": 0.0, "ci95": [0.0, 1.0], "images": 0, "objects": 0}
    sums, counts = np.array([values.sum() for values in ious]), np.array([len(values) for values in ious])
    drawn = np.random.default_rng(0).integers(len(ious), size=(draws, len(ious)))
    means = sums[drawn].sum(1) / counts[drawn].sum(1)
    return {
        "mean_iou": float(sums.sum() / counts.sum()),
        "ci95": np.quantile(means, [0.025, 0.975]).tolist(),
        "images": len(ious),
        "objects": int(counts.sum()),
    }
