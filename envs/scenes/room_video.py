"""A camera in a room, frame by frame: nobody is there, or somebody walks in."""

from collections.abc import Iterator
from contextlib import closing
from typing import Any, cast

import numpy as np

from tinyvla.errors import UserError

from .splits import SPLITS, Split, image_seed


def generate_room_video(
    split: str, seed: int, frames: int, enters: int | None = None, image_size: int = 96, fps: float = 30.0
) -> Iterator[tuple[np.ndarray, dict[str, Any]]]:
    """Frames of a room, uint8 (S, S, 3) with a sensor's noise, and room labels as in `open_labelled_images`.

    There are posters as in pictures, so an empty room may well show people. From the frame `enters` on somebody walks
    in from the side at 1.2 m/s and stays in the middle; the label's "person" is 1 as soon as 0.3% of the frame shows
    them. None leaves the room empty. A stream depends on its arguments alone. Drawing is done in this process.

    Raises UserError for an unknown split, or a seed outside 0 .. 9,999.
    """
    from .room_generator import RoomGenerator  # which needs a GL backend

    if split not in SPLITS:
        raise UserError(f"there is no split {split!r} of scenes; use one of {', '.join(SPLITS)}")
    rng = np.random.default_rng([713, image_seed(split, seed, 0)])
    with closing(RoomGenerator(cast(Split, split), image_size)) as generator:
        for picture in generator.watch(rng, frames, enters, fps):
            yield picture.arrays["images"], picture.label
