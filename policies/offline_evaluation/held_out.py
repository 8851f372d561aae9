"""Held-out episodes of a dataset: a policy is not trained on them, but judged by them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tinyvla.errors import UserError
from tinyvla.files import write_whole
from tinyvla.untrusted import inside, read_json_object

if TYPE_CHECKING:
    from lerobot.datasets import LeRobotDatasetMetadata

SHARE = 0.1  # of the episodes of a person's own recording
FILE = "held_out.json"  # of a checkpoint
_SEED = 1
_LARGEST_FILE = 1 << 20  # bytes


def held_out_episodes(episodes: int, share: float = SHARE) -> list[int]:
    """Numbers of the held-out ones of `episodes` episodes: of every 1/`share` consecutive ones, one drawn by a seed.

    The draw depends on the block alone. So the same episodes are held out in every run, whatever its seed, also when
    more have been recorded; only that of a first block that was incomplete may change. At least one of two or more
    episodes is held out; none of a single one, or with a share of 0.
    """
    if share <= 0 or episodes < 2:
        return []
    size = min(max(2, round(1 / share)), episodes)
    numbers = []
    for start in range(0, episodes, size):
        offset = int(np.random.default_rng([_SEED, start]).integers(size))
        if start + offset < episodes:
            numbers.append(start + offset)
    return numbers


def describe_held_out(held_out: Sequence[int]) -> str:
    """Line for the terminal on the episodes that judge a policy of recordings."""
    if not held_out:
        return "no episode is held out: the policy is compared with episodes that it was trained on"
    numbers = ", ".join(map(str, held_out))
    return f"held out and never trained on, to judge the policy: episode{'s' * (len(held_out) > 1)} {numbers}"


def write_held_out(checkpoint: Path, meta: "LeRobotDatasetMetadata", held_out: Sequence[int]) -> None:
    """Store in a checkpoint which dataset it was trained on, and the numbers of its held-out episodes."""
    from ..data.dataset_files import fingerprint

    content = {"fingerprint": fingerprint(meta.root), "episodes": meta.total_episodes, "held_out": list(held_out)}
    write_whole(checkpoint / FILE, json.dumps(content))


def read_held_out(checkpoint: Path, meta: "LeRobotDatasetMetadata") -> list[int] | None:
    """Episodes of a dataset that a checkpoint was not trained on, as it says itself.

    None if it was trained on another dataset, or does not say on which. Raises UserError for a damaged file.
    """
    from ..data.dataset_files import fingerprint

    if not (checkpoint / FILE).exists():
        return None
    content = read_json_object(inside(checkpoint, FILE), _LARGEST_FILE)
    numbers: Any = content.get("held_out")
    if not isinstance(numbers, list) or not all(type(number) is int for number in numbers):
        raise UserError(f"{checkpoint / FILE} has no list of held-out episodes; get the original file")
    if content.get("fingerprint") != fingerprint(meta.root):
        return None
    if unknown := [number for number in numbers if not 0 <= number < meta.total_episodes]:
        raise UserError(f"{checkpoint / FILE} names the episode {unknown[0]}, which {meta.root} does not have")
    return numbers
