"""Captions of tables: names of objects, spatial relations, and several wordings of the whole scene."""

from collections.abc import Sequence

import numpy as np

_CLEARLY = 1.4  # ratio of the two distances from which a relation is named


def with_article(name: str) -> str:
    """ "a red mug", "an orange ball"."""
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def relation_of(offset: np.ndarray) -> str | None:
    """Spatial relation of an object to another one, seen from the camera; None if no direction dominates.

    offset: (2,), metres from the other object: to the right, and away from the camera.
    """
    right, away = offset
    if max(abs(right), abs(away)) < _CLEARLY * min(abs(right), abs(away)):
        return None
    if abs(right) > abs(away):
        return "right of" if right > 0 else "left of"
    return "behind" if away > 0 else "in front of"


def list_of(names: Sequence[str]) -> str:
    """ "a red mug, a blue bowl and an orange ball"."""
    articled = [with_article(name) for name in names]
    return " and ".join([", ".join(articled[:-1]), articled[-1]] if len(articled) > 1 else articled)


def captions_of(names: Sequence[str], relations: Sequence[str], table: str, rng: np.random.Generator) -> list[str]:
    """Five captions; each names all objects, in its own random order.

    relations: such as "the red mug is left of the blue bowl". table: "a wooden table".
    """

    def shuffled() -> str:
        return list_of([names[i] for i in rng.permutation(len(names))])

    texts = [
        f"{shuffled()} on {table}",
        f"a photo of {shuffled()}",
        f"there {'is' if len(names) == 1 else 'are'} {shuffled()} on the table",
        f"{table} with {shuffled()}",
    ]
    if relations:
        texts.append(f"{shuffled()}; {rng.choice(list(relations))}")
    else:
        texts.append(f"one can see {shuffled()}")
    return texts
