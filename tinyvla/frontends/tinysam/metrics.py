"""How good a segmenter's masks are on labelled pictures."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt

from . import Encoded, Everything, Masks, Segmenter, encode_picture, segment_box, segment_everything, segment_points

MIN_PIXELS = 12  # objects of which less is seen are not scored
CLICKS = 3


def interior_point(region: np.ndarray) -> tuple[int, int]:
    """The place of a bool region (H, W) that is furthest from its edge, x and y; as SAM is scored."""
    y, x = np.unravel_index(distance_transform_edt(np.pad(region, 1))[1:-1, 1:-1].argmax(), region.shape)
    return int(x), int(y)


def _point(model: Segmenter, picture: Encoded, truth: np.ndarray, rng: np.random.Generator) -> Masks:
    return segment_points(model, picture, [interior_point(truth)])


def _random_point(model: Segmenter, picture: Encoded, truth: np.ndarray, rng: np.random.Generator) -> Masks:
    y, x = rng.choice(np.argwhere(truth))
    return segment_points(model, picture, [(x, y)])


def _points(model: Segmenter, picture: Encoded, truth: np.ndarray, rng: np.random.Generator) -> Masks:
    """Clicks, each in the middle of the largest error of the answer to those before."""
    clicks, labels = [interior_point(truth)], [1]
    while True:
        masks = segment_points(model, picture, clicks, labels)
        answer = masks.masks[0].numpy()
        missed, extra = truth & ~answer, answer & ~truth
        if len(clicks) == CLICKS or not (missed | extra).any():
            return masks
        labels.append(int(missed.sum() >= extra.sum()))
        clicks.append(interior_point(missed if labels[-1] else extra))


def _box(model: Segmenter, picture: Encoded, truth: np.ndarray, rng: np.random.Generator) -> Masks:
    rows, columns = np.flatnonzero(truth.any(1)), np.flatnonzero(truth.any(0))
    return segment_box(model, picture, (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))


PROMPTS: dict[str, Callable[[Segmenter, Encoded, np.ndarray, np.random.Generator], Masks]] = {
    "point": _point,
    "random_point": _random_point,
    "points": _points,
    "box": _box,
}


def score_masks(
    model: Segmenter,
    scenes: Any,
    pictures: int,
    modes: Sequence[str],
    everything: Everything | None = None,
    seed: int = 0,
) -> dict[str, list[np.ndarray]]:
    """IoUs of every object of the first `pictures` scenes, by mode and picture.

    Args:
        model: in evaluation mode.
        scenes: with `images` (N, S, S, 3) and `instances` (N, S, S).
        modes: of PROMPTS, or `everything`: there an object has the IoU of the mask that fits it best.
        everything: how everything is segmented.
        seed: of the random points.
    """
    rng = np.random.default_rng(seed)
    found: dict[str, list[np.ndarray]] = {mode: [] for mode in modes}
    for index in range(min(pictures, len(scenes))):
        instances = np.asarray(scenes.instances[index])
        pixels = np.bincount(instances.ravel())
        truths = [instances == each for each in np.flatnonzero(pixels >= MIN_PIXELS) if each > 0]
        if not truths:
            continue
        picture = encode_picture(model, np.asarray(scenes.images[index]))
        for mode in modes:
            if mode == "everything":
                ious = best_ious(segment_everything(model, picture, everything), truths)
            else:
                ious = [iou(PROMPTS[mode](model, picture, truth, rng).masks[0].numpy(), truth) for truth in truths]
            found[mode].append(np.array(ious))
    return found


def iou(one: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of two bool masks that are not both empty."""
    return float((one & other).sum() / (one | other).sum())


def best_ious(masks: Masks, truths: Sequence[np.ndarray]) -> list[float]:
    """For each true mask the IoU of the mask that fits it best; 0 where there is none."""
    given = masks.masks.flatten(1).float()
    wanted = torch.from_numpy(np.stack(truths)).flatten(1).float()
    if len(given) == 0:
        return [0.0] * len(truths)
    common = wanted @ given.T
    return (common / (wanted.sum(1, keepdim=True) + given.sum(1) - common)).max(1).values.tolist()


def compare(one: Sequence[np.ndarray], other: Sequence[np.ndarray], draws: int = 2000) -> dict[str, Any]:
    """How much higher the first mean IoU is than the second on the same pictures, with a 95% bootstrap interval."""
    differences = [mine - theirs for mine, theirs in zip(one, other, strict=True)]
    found = summarise(differences, draws)
    return {"difference": found["mean_iou"], "ci95": found["ci95"]}


def summarise(ious: Sequence[np.ndarray], draws: int = 2000) -> dict[str, Any]:
    """Mean IoU of all objects, its 95% bootstrap interval over pictures, and how many of both there are."""
    if not ious:
        return {"mean_iou": 0.0, "ci95": [0.0, 1.0], "pictures": 0, "objects": 0}
    sums, counts = np.array([each.sum() for each in ious]), np.array([len(each) for each in ious])
    drawn = np.random.default_rng(0).integers(len(ious), size=(draws, len(ious)))
    means = sums[drawn].sum(1) / counts[drawn].sum(1)
    return {
        "mean_iou": float(sums.sum() / counts.sum()),
        "ci95": np.quantile(means, [0.025, 0.975]).tolist(),
        "pictures": len(ious),
        "objects": int(counts.sum()),
    }
