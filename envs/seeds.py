"""Which seeds belong to training, validation and evaluation. The ranges are disjoint, so the splits never overlap."""

from typing import Literal

from tinyvla.errors import UserError

Split = Literal["train", "validation", "evaluation"]

SEEDS_PER_SPLIT = 1_000_000
_FIRST: dict[str, int] = {"train": 0, "validation": SEEDS_PER_SPLIT, "evaluation": 2 * SEEDS_PER_SPLIT}


def episode_seed(split: Split, index: int) -> int:
    """The environment seed of a split's `index`-th episode, 0 <= index < 1,000,000."""
    if not 0 <= index < SEEDS_PER_SPLIT:
        raise UserError(
            f"episode index {index} is outside 0..{SEEDS_PER_SPLIT - 1}; use a smaller seed or fewer episodes"
        )
    return _FIRST[split] + index
