"""Masks of objects in an image."""

import numpy as np


def mask_to_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Box around a bool mask (H, W) that is not empty: x0, y0, x1, y1 in pixels, half-open."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
