"""Which environment seeds belong to training, validation and evaluation: disjoint ranges, so splits never overlap."""

from typing import Literal

from tinyvla.errors import UserError

EpisodeSplit = Literal["train", "validation", "evaluation"]

EPISODES_PER_SEED = 10_000  # episodes of one task before the next value of `seed` would repeat them
SEEDS = 10_000  # values of `seed`
_FIRST: dict[str, int] = {"train": 0, "validation": 1, "evaluation": 2}


def episode_seed(split: EpisodeSplit, seed: int, index: int) -> int:
    """The environment's seed in the `index`-th episode of a split, 0 <= index < 10,000, for a run with that `seed`.

    Raises UserError if index or seed lie outside 0 .. 9,999.
    """
    if not 0 <= index < EPISODES_PER_SEED:
        raise UserError(f"a task has at most {EPISODES_PER_SEED} episodes a seed; ask for fewer episodes")
    if not 0 <= seed < SEEDS:
        raise UserError(f"seed is {seed}; use one from 0 to {SEEDS - 1}")
    return (_FIRST[split] * SEEDS + seed) * EPISODES_PER_SEED + index
