"""Splits of generated images: their seeds, and the numbers from which meshes and textures are generated."""

from typing import Literal, get_args

from tinyvla.errors import UserError

Split = Literal["train", "validation", "test"]
SPLITS: tuple[str, ...] = get_args(Split)

IMAGES_PER_SEED = 1_000_000  # per split before the next value of `seed` would repeat them
SEEDS = 10_000  # values of `seed`
FAMILIES = 5  # of numbers, by remainder
_FAMILIES: dict[Split, tuple[int, ...]] = {"train": (0, 1, 2), "validation": (3,), "test": (4,)}


def image_seed(split: str, seed: int, index: int) -> int:
    """Seed of the `index`-th image of a split, for a set with that `seed`. No two splits share a seed.

    Raises UserError if index lies outside 0 .. 999,999 or seed outside 0 .. 9,999.
    """
    if not 0 <= index < IMAGES_PER_SEED:
        raise UserError(f"a seed has at most {IMAGES_PER_SEED} images per split; use a smaller count")
    if not 0 <= seed < SEEDS:
        raise UserError(f"seed is {seed}; use one from 0 to {SEEDS - 1}")
    return (SPLITS.index(split) * SEEDS + seed) * IMAGES_PER_SEED + index


def numbers_of(split: Split, below: int) -> list[int]:
    """Numbers of a split in range(below): three of five for training, one of five each for the others."""
    return [number for number in range(below) if number % FAMILIES in _FAMILIES[split]]
