"""Retrieval metrics of a CLIP: recall@1 of captions for images, and of images for captions, in galleries."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...errors import UserError
from .frontend import TinyCLIP


class Gallery(NamedTuple):
    """Images that their captions distinguish.

    images: their indices. captions: one wording of each, in the same order.
    """

    images: list[int]
    captions: list[str]


def make_galleries(labels: Sequence[Mapping[str, Any]], size: int, seed: int = 0) -> list[Gallery]:
    """Random galleries of `size` images in which every caption is true of one image alone.

    No image of a gallery shows all objects of another: "a red mug" is also true of an image with a red mug and a blue
    bowl.

    Args:
        labels: per image, with `captions`, of which one is drawn, and `objects` with a `name` each.
        size: images per gallery.
        seed: of the random draws.

    Raises UserError if not even one gallery can be filled.
    """
    rng = np.random.default_rng(seed)
    full: list[Gallery] = []
    # An image goes to the first unfilled gallery that it fits, so that few images are left over.
    unfilled: list[tuple[Gallery, list[set[str]]]] = []
    for number in rng.permutation(len(labels)).tolist():
        names = {thing["name"] for thing in labels[number]["objects"]}
        fitting = (entry for entry in unfilled if not any(names <= o or o <= names for o in entry[1]))
        entry = next(fitting, None)
        if entry is None:
            entry = (Gallery([], []), [])
            unfilled.append(entry)
        gallery, gallery_names = entry
        wordings = labels[number]["captions"]
        gallery.images.append(number)
        gallery.captions.append(str(wordings[rng.integers(len(wordings))]))
        gallery_names.append(names)
        if len(gallery.images) == size:
            full.append(gallery)
            unfilled.remove(entry)
    if not full:
        raise UserError(f"{len(labels)} images fill no gallery of {size} images that differ; use more images")
    return full


def recall_at_1(images: Tensor, texts: Tensor) -> tuple[float, float]:
    """Shares of images with their caption nearest, and of captions with their image nearest, of unit vectors (G, D)."""
    cosines = images @ texts.T
    target = torch.arange(len(cosines), device=cosines.device)
    return (
        (cosines.argmax(dim=1) == target).float().mean().item(),
        (cosines.argmax(dim=0) == target).float().mean().item(),
    )


def recalls(frontend: TinyCLIP, images: Any, galleries: Sequence[Gallery]) -> np.ndarray:
    """Recall@1 of each gallery (n, 2): image to text, text to image. images: uint8 (N, H, W, 3)."""
    rows = []
    for numbers, captions in galleries:
        embeddings = frontend.embed_images(images[np.sort(numbers)])  # the order on disk
        ranks = torch.from_numpy(np.argsort(np.argsort(numbers))).to(embeddings.device)
        rows.append(recall_at_1(embeddings[ranks], frontend.embed_texts(captions)))
    return np.array(rows)
