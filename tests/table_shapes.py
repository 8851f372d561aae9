"""Labelled images for tests: discs and squares, each in a colour of its own, on a table of noise."""

import numpy as np


class Shapes:
    """Stands in for `envs.scenes`: `images` (N, S, S, 3) uint8 and `instances` (N, S, S) uint8, 0 the table."""

    def __init__(self, count: int, size: int = 128, seed: int = 0):
        rng = np.random.default_rng(seed)
        self.images = np.empty((count, size, size, 3), np.uint8)
        self.instances = np.zeros((count, size, size), np.uint8)
        y, x = np.mgrid[:size, :size]
        for image, instances in zip(self.images, self.instances, strict=True):
            image[:] = rng.integers(60, 200, 3) + rng.integers(-12, 12, (size, size, 1))
            for index in range(1, rng.integers(3, 7)):
                (cx, cy), radius = rng.uniform(0.15, 0.85, 2) * size, rng.uniform(0.06, 0.16) * size
                away = np.maximum(abs(x - cx), abs(y - cy)) if rng.random() < 0.5 else np.hypot(x - cx, y - cy)
                inside = away < radius
                instances[inside] = index
                image[inside] = rng.integers(0, 256, 3)

    def __len__(self) -> int:
        return len(self.images)
