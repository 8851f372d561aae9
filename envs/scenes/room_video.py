"""Video of a room: it stays empty, or a person walks in."""

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

    Posters may show people, also in an empty room. From frame `enters` on, a person walks in from the side at 1.2 m/s
    and stays in the middle; the label's "person" is 1 when at least 0.3% of the frame show the person. None: the room
    stays empty. The video is a pure function of the arguments. It is drawn in this process.

    Raises UserError for an unknown split, or a seed outside 0 .. 9,999.
    """
    from .room_generator import RoomGenerator  # needs a GL backend

    if split not in SPLITS:
        raise UserError(f"there is no split {split!r} of scenes; use one of {', '.join(SPLITS)}")
    rng = np.random.default_rng([713, image_seed(split, seed, 0)])
    with closing(RoomGenerator(cast(Split, split), image_size)) as generator:
        for image in generator.watch(rng, frames, enters, fps):
            yield image.arrays["images"], image.label
