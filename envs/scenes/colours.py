"""Named colours, and random shades of each."""

import colorsys
from typing import NamedTuple

import numpy as np


class _Range(NamedTuple):
    """Shades of a named colour: ranges of hue, saturation and value, in [0, 1]."""

    hue: tuple[float, float]
    saturation: tuple[float, float]
    value: tuple[float, float]


# The ranges have gaps, so that a shade keeps its name when the light darkens or tints it slightly.
_RANGES = {
    "red": _Range((-0.015, 0.015), (0.8, 1), (0.6, 0.9)),
    "orange": _Range((0.065, 0.085), (0.9, 1), (0.9, 1)),
    "yellow": _Range((0.14, 0.165), (0.75, 1), (0.85, 1)),
    "green": _Range((0.3, 0.4), (0.65, 1), (0.4, 0.75)),
    "blue": _Range((0.58, 0.65), (0.7, 1), (0.55, 0.95)),
    "purple": _Range((0.74, 0.79), (0.55, 0.85), (0.4, 0.7)),
    "pink": _Range((0.9, 0.94), (0.35, 0.5), (0.9, 1)),
    "brown": _Range((0.05, 0.08), (0.55, 0.75), (0.28, 0.42)),
    "white": _Range((0, 1), (0, 0.04), (0.92, 1)),
    "grey": _Range((0, 1), (0, 0.05), (0.42, 0.55)),
    "black": _Range((0, 1), (0, 0.1), (0.03, 0.1)),
}
COLOURS = tuple(_RANGES)


def shade(name: str, rng: np.random.Generator) -> np.ndarray:
    """Random shade of a named colour, (3,) in [0, 1]."""
    hue, saturation, value = (rng.uniform(*span) for span in _RANGES[name])
    return np.array(colorsys.hsv_to_rgb(hue % 1, saturation, value))


def any_colour(rng: np.random.Generator, saturation: tuple[float, float] = (0, 0.9), low: float = 0.15) -> np.ndarray:
    """Random colour, (3,) in [0, 1], for surfaces that captions do not name. low: the smallest value (brightness)."""
    return np.array(colorsys.hsv_to_rgb(rng.random(), rng.uniform(*saturation), rng.uniform(low, 1)))
