"""Textures of surfaces: patterns generated from a number, or Meta-World's photographs. No two splits share one."""

from functools import cache
from typing import NamedTuple

import numpy as np
from PIL import Image

from .package_files import package_folder
from .splits import FAMILIES, Split, numbers_of

SIDE = 128  # of a texture, in pixels
PATTERNS = 400  # 240 for training, 80 each for the others
_PHOTOGRAPHS: dict[Split, dict[str, str]] = {  # of metaworld/assets/textures, and their words in captions
    "train": {
        **dict.fromkeys(("wood1", "wood2", "darkwood", "light_wood_v3"), "wooden"),
        **dict.fromkeys(("brick1", "floor2"), "tiled"),
        **{"granite": "speckled", "marble": "marbled"},
    },
    "validation": {"wood3": "wooden", "light_wood": "wooden", "floor1": "tiled", "metal2": "speckled"},
    "test": {"wood4": "wooden", "wood_light": "wooden", "plaster1": "marbled", "metal": "speckled"},
}


class Texture(NamedTuple):
    """A texture.

    word: its word in captions. share: float32 (128, 128), the share of the second of two colours. photograph: uint8
    (128, 128, 3), or None.
    """

    word: str
    share: np.ndarray
    photograph: np.ndarray | None = None

    def painted(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Pixels in two colours, uint8 (128, 128, 3); a photograph keeps its own. first, second: (3,) in [0, 1]."""
        if self.photograph is not None:
            return self.photograph
        return (255 * (first + self.share[..., None] * (second - first))).astype(np.uint8)


def draw_texture(split: Split, rng: np.random.Generator, photographs: bool = True) -> Texture:
    """Random texture of a split; a quarter are photographs, which keep their own colours."""
    if photographs and rng.random() < 0.25:
        return photograph(split, str(rng.choice(photographs_of(split))))
    return pattern(int(rng.choice(numbers_of(split, PATTERNS))))


def photographs_of(split: Split) -> list[str]:
    """Names of the photographs of a split."""
    return list(_PHOTOGRAPHS[split])


@cache
def photograph(split: Split, name: str) -> Texture:
    """A photograph of a split, scaled down."""
    with Image.open(package_folder("metaworld") / "assets" / "textures" / f"{name}.png") as image:
        pixels = np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX))
    return Texture(_PHOTOGRAPHS[split][name], np.zeros((SIDE, SIDE), np.float32), pixels)


@cache
def pattern(number: int) -> Texture:
    """The pattern with that number; it tiles without seams."""
    rng = np.random.default_rng([710, number])
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    word = str(rng.choice(list(_KINDS)))
    share = _KINDS[word](x, y, number % FAMILIES, rng)
    return Texture(word, np.clip(share, 0, 1).astype(np.float32))


def pairs_of(family: int, across: range, along: range) -> list[tuple[int, int]]:
    """Repetitions of a pattern in x and y; families, and therefore splits, share no pair."""
    return [(a, b) for a in across for b in along][family::FAMILIES]


def _pair(family: int, across: range, along: range, rng: np.random.Generator) -> np.ndarray:
    return rng.choice(pairs_of(family, across, along))


def _clouds(x: np.ndarray, y: np.ndarray, rng: np.random.Generator, waves: int = 6) -> np.ndarray:
    """Sum of periodic waves, coarse ones stronger, about in [-1, 1]."""
    total = np.zeros_like(x)
    for _ in range(8):
        turns = rng.integers(-waves, waves + 1, 2)
        total += np.sin(2 * np.pi * (turns[0] * x + turns[1] * y) + rng.uniform(0, 6.3)) / (1 + np.abs(turns).sum())
    return total


def _plain(x: np.ndarray, y: np.ndarray, family: int, rng: np.random.Generator) -> np.ndarray:
    return 0.15 + 0.1 * _clouds(x, y, rng)


def _striped(x: np.ndarray, y: np.ndarray, family: int, rng: np.random.Generator) -> np.ndarray:
    turns = _pair(family, range(1, 8), range(-4, 5), rng)
    return (np.sin(2 * np.pi * (turns[0] * x + turns[1] * y)) > rng.uniform(-0.5, 0.5)).astype(float)


def _checked(x: np.ndarray, y: np.ndarray, family: int, rng: np.random.Generator) -> np.ndarray:
    across, along = _pair(family, range(2, 8), range(2, 8), rng)
    return (np.sin(2 * np.pi * across * x) * np.sin(2 * np.pi * along * y) > 0).astype(float)


def _dotted(x: np.ndarray, y: np.ndarray, family: int, rng: np.random.Generator) -> np.ndarray:
    across, along = _pair(family, range(2, 8), range(2, 8), rng)
    high = np.sin(2 * np.pi * across * x) * np.sin(2 * np.pi * along * y)
    return (high > rng.uniform(0.3, 0.7)).astype(float)


def _marbled(x: np.ndarray, y: np.ndarray, family: int, rng: np.random.Generator) -> np.ndarray:
    return 0.5 + 0.6 * _clouds(x, y, rng, 4)


def _speckled(x: np.ndarray, y: np.ndarray, family: int, rng: np.random.Generator) -> np.ndarray:
    grain = int(rng.choice([1, 2, 4]))
    return rng.random((SIDE // grain, SIDE // grain)).repeat(grain, 0).repeat(grain, 1) ** 2


def _wooden(x: np.ndarray, y: np.ndarray, family: int, rng: np.random.Generator) -> np.ndarray:
    rings = rng.integers(4, 12)
    grain = np.sin(2 * np.pi * rings * y + rng.uniform(1, 4) * _clouds(x, y, rng, 2))
    return 0.5 + 0.35 * grain + 0.1 * np.sin(2 * np.pi * 40 * y)


def _tiled(x: np.ndarray, y: np.ndarray, family: int, rng: np.random.Generator) -> np.ndarray:
    rows, columns = _pair(family, range(2, 9, 2), range(1, 7), rng)
    shifted = x * columns + rng.choice([0, 0.5]) * (np.floor(y * rows) % 2)
    to_edge = np.minimum((0.5 - np.abs(shifted % 1 - 0.5)) / columns, (0.5 - np.abs(y * rows % 1 - 0.5)) / rows)
    tones = rng.uniform(0, 0.35, (rows, columns))[(y * rows).astype(int) % rows, shifted.astype(int) % columns]
    return np.where(to_edge < rng.uniform(0.01, 0.03), 1.0, tones)


_KINDS = {
    "plain": _plain,
    "striped": _striped,
    "checked": _checked,
    "dotted": _dotted,
    "marbled": _marbled,
    "speckled": _speckled,
    "wooden": _wooden,
    "tiled": _tiled,
}
