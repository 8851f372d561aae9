"""Sensor noise: blurred, noisy images and noisy proprioception."""

import numpy as np
from scipy.ndimage import gaussian_filter

_NOISE = 6.0  # of 255, per unit of strength
_BLUR = 0.35 / 96  # share of the image's side


def noisy_image(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Blur an image, uint8 (S, S, 3), and add Gaussian noise to every pixel."""
    radius = _BLUR * strength * image.shape[0]
    blurred = gaussian_filter(image.astype(np.float32), (radius, radius, 0))
    noise = rng.normal(0, _NOISE * strength, image.shape)
    return (blurred + noise).round().clip(0, 255).astype(np.uint8)


def noisy_state(state: np.ndarray, strength: float, slight_error: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Add Gaussian noise of `strength` times `slight_error` to a state, float (S,)."""
    return (state + rng.normal(0, 1, state.shape) * strength * slight_error).astype(state.dtype)
