"""Worse sensors: blurred, noisy images and noisy proprioception."""

import numpy as np
from scipy.ndimage import gaussian_filter

_NOISE = 6.0  # of 255, a unit of strength
_BLUR = 0.35 / 96  # of an image's side


def noisy_image(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """An image, uint8 (S, S, 3), blurred and with Gaussian noise on every pixel."""
    radius = _BLUR * strength * image.shape[0]
    blurred = gaussian_filter(image.astype(np.float32), (radius, radius, 0))
    noise = rng.normal(0, _NOISE * strength, image.shape)
    return (blurred + noise).round().clip(0, 255).astype(np.uint8)


def noisy_state(state: np.ndarray, strength: float, slight_error: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A state, float (S,), with Gaussian noise of `strength` times `slight_error`."""
    return (state + rng.normal(0, 1, state.shape) * strength * slight_error).astype(state.dtype)
