"""How well a CLIP finds a picture's caption among others, and a caption's picture: recall@1 in galleries."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...errors import UserError
from .frontend import TinyCLIP


class Gallery(NamedTuple):
    """Pictures that can be told apart by their captions.

    pictures: their numbers. captions: one wording of each, in the same order.
    """

    pictures: list[int]
    captions: list[str]


def make_galleries(labels: Sequence[Mapping[str, Any]], size: int, seed: int = 0) -> list[Gallery]:
    """Deal pictures out to galleries of `size`, at random but so that every caption is true of one picture alone.

    Of two pictures in a gallery neither shows all that the other shows: "a red mug" would also be true of a picture
    with a red mug and a blue bowl.

    labels: each with `captions`, wordings of which one is drawn, and `objects` with a `name` each.

    Raises UserError if not even one gallery can be filled.
    """
    rng = np.random.default_rng(seed)
    full: list[Gallery] = []
    # A picture goes to the first unfilled gallery that it can be told apart in, so that few are left over.
    unfilled: list[tuple[Gallery, list[set[str]]]] = []
    for number in rng.permutation(len(labels)).tolist():
        shown = {thing["name"] for thing in labels[number]["objects"]}
        place = next((each for each in unfilled if not any(shown <= o or o <= shown for o in each[1])), None)
        if place is None:
            place = (Gallery([], []), [])
            unfilled.append(place)
        gallery, others = place
        wordings = labels[number]["captions"]
        gallery.pictures.append(number)
        gallery.captions.append(str(wordings[rng.integers(len(wordings))]))
        others.append(shown)
        if len(gallery.pictures) == size:
            full.append(gallery)
            unfilled.remove(place)
    if not full:
        raise UserError(f"{len(labels)} pictures fill no gallery of {size} that differ; use more of them")
    return full


def recall_at_1(images: Tensor, texts: Tensor) -> tuple[float, float]:
    """Of one gallery's unit vectors (G, D): shares of pictures whose own caption is nearest, and of captions."""
    cosines = images @ texts.T
    own = torch.arange(len(cosines), device=cosines.device)
    return (
        (cosines.argmax(dim=1) == own).float().mean().item(),
        (cosines.argmax(dim=0) == own).float().mean().item(),
    )


def recalls(frontend: TinyCLIP, images: Any, galleries: Sequence[Gallery]) -> np.ndarray:
    """Recall@1 of each gallery (n, 2): image to text, text to image. images: uint8 (N, H, W, 3)."""
    found = []
    for pictures, captions in galleries:
        seen = frontend.embed_images(images[np.sort(pictures)])  # in the order that they lie on the disk
        ranks = torch.from_numpy(np.argsort(np.argsort(pictures))).to(seen.device)
        found.append(recall_at_1(seen[ranks], frontend.embed_texts(captions)))
    return np.array(found)


def bootstrap_interval(values: Any, seed: int = 0, draws: int = 2000) -> tuple[float, float]:
    """95% interval of the mean of (n,) values, one a gallery, or of the ratio of two such means for (n, 2).

    The percentile bootstrap over galleries: the queries of one gallery are not independent.
    """
    values = np.asarray(values, float)
    chosen = np.random.default_rng(seed).integers(len(values), size=(draws, len(values)))
    means = values[chosen].mean(axis=1)
    if values.ndim == 2:
        means = means[:, 0] / np.maximum(means[:, 1], 1e-12)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)
