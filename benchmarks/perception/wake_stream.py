"""A camera's stream made of generated rooms: people who walk in, and rooms that stay empty."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

FPS = 30.0
_HEIGHT, _PACE = 1.7, 1.2  # metres of a person, metres a second
_NOISE, _FLICKER, _DRIFT = 3.0, 0.01, 0.1  # levels of a pixel; shares of the light, fast and slow


class Entry(NamedTuple):
    """frames: uint8 (N, S, S, 3). first, half: the frames from which on a thirtieth of the person's pixels, and half
    of them, are in the picture."""

    frames: np.ndarray
    first: int
    half: int


def seen_by_camera(picture: np.ndarray, start: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Frames number `start` and on of one view, uint8 (count, S, S, 3): the light changes, and the sensor is noisy."""
    times = (start + np.arange(count)) / FPS
    light = 1 + _DRIFT * np.sin(2 * np.pi * times / 20) + _FLICKER * rng.standard_normal(count)
    noise = rng.standard_normal((count, *picture.shape), dtype=np.float32) * _NOISE
    return np.clip(picture * light[:, None, None, None] + noise, 0, 255).astype(np.uint8)


def walk_in(room: np.ndarray, other: np.ndarray, person: np.ndarray, at_once: bool, seconds: float, rng) -> Entry:
    """Somebody enters a room from the nearer side and stops at their place.

    Args:
        room: uint8 (S, S, 3), without a person.
        other: of the same shape, with the person in it.
        person: bool (S, S), which of its pixels show them.
        at_once: they are at their place in the first frame.
    """
    rows, columns = np.nonzero(person)
    from_left = columns.mean() < person.shape[1] / 2
    outside = -(columns.max() + 1) if from_left else person.shape[1] - columns.min()
    pace = np.ptp(rows) / _HEIGHT * _PACE / FPS  # pixels a frame
    frames, shares = [], []
    for index in range(int(seconds * FPS)):
        left = 0 if at_once else max(0.0, abs(outside) - pace * (index + 1))
        shifted = columns + round(np.sign(outside) * left)
        inside = (shifted >= 0) & (shifted < person.shape[1])
        view = room.copy()
        view[rows[inside], shifted[inside]] = other[rows[inside], columns[inside]]
        frames.append(seen_by_camera(view, index, 1, rng)[0])
        shares.append(inside.mean())
    return Entry(np.stack(frames), *(int(np.argmax(np.array(shares) >= share)) for share in (1 / 30, 1 / 2)))


def empty_minutes(rooms: np.ndarray, seconds: float, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """A camera that looks into one empty room after the other, so many seconds each: a second's frames at a time."""
    for room in rooms:
        for second in range(int(seconds)):
            yield seen_by_camera(room, int(second * FPS), int(FPS), rng)
