"""Environment seeds of the splits train, validation and evaluation: disjoint ranges, so that splits never overlap."""

from typing import Literal

from tinyvla.errors import UserError

EpisodeSplit = Literal["train", "validation", "evaluation"]

EPISODES_PER_SEED = 10_000  # episodes per task before the next value of `seed` would repeat them
SEEDS = 10_000  # values of `seed`
_INDEX: dict[str, int] = {"train": 0, "validation": 1, "evaluation": 2}


def episode_seed(split: EpisodeSplit, seed: int, index: int) -> int:
    """Environment seed of the `index`-th episode of a split, for a run with that `seed`.

    Raises UserError if index or seed lie outside 0 .. 9,999.
    """
    if not 0 <= index < EPISODES_PER_SEED:
        raise UserError(f"a task has at most {EPISODES_PER_SEED} episodes a seed; ask for fewer episodes")
    if not 0 <= seed < SEEDS:
        raise UserError(f"seed is {seed}; use one from 0 to {SEEDS - 1}")
    return (_INDEX[split] * SEEDS + seed) * EPISODES_PER_SEED + index
