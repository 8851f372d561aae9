"""What belongs to which split: pictures' seeds, and the numbers that meshes and textures are made from."""

from typing import Literal, get_args

from tinyvla.errors import UserError

Split = Literal["train", "validation", "test"]
SPLITS: tuple[str, ...] = get_args(Split)

IMAGES_PER_SEED = 1_000_000  # of one split before the next value of `seed` would repeat them
SEEDS = 10_000  # values of `seed`
FAMILIES = 5  # of numbers, by their remainder
_FAMILIES: dict[Split, tuple[int, ...]] = {"train": (0, 1, 2), "validation": (3,), "test": (4,)}


def image_seed(split: str, seed: int, index: int) -> int:
    """The seed of a split's `index`-th picture for a set with that `seed`: no two splits have one in common.

    Raises UserError if index lies outside 0 .. 999,999 or seed outside 0 .. 9,999.
    """
    if not 0 <= index < IMAGES_PER_SEED:
        raise UserError(f"a seed has at most {IMAGES_PER_SEED} pictures a split; use a smaller count")
    if not 0 <= seed < SEEDS:
        raise UserError(f"seed is {seed}; use one from 0 to {SEEDS - 1}")
    return (SPLITS.index(split) * SEEDS + seed) * IMAGES_PER_SEED + index


def numbers_of(split: Split, below: int) -> list[int]:
    """A split's share of the numbers from 0: three in five for training, one each for the others."""
    return [number for number in range(below) if number % FAMILIES in _FAMILIES[split]]
