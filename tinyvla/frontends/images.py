"""Images as every front-end takes them: RGB, uint8 (H, W, 3)."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import UserError, one_line

MIN_SIDE = 8  # pixels of the shorter side
# Others, such as EPS, are read by programs that Pillow starts.
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF", "ICO", "TGA")

type RgbImage = NDArray[np.uint8]


def image_formats() -> list[str]:
    """Formats of image files that are read, those of them that this Pillow supports."""
    Image.init()
    return [name for name in _FORMATS if name in Image.OPEN]


def read_image(path: Path | str) -> RgbImage:
    """Image of a file, upright, as `check_image` returns it. Raises UserError for a missing or damaged file."""
    try:
        with Image.open(path, formats=image_formats()) as image:
            image.load()
            upright = ImageOps.exif_transpose(image)
            if upright.mode in ("P", "CMYK", "YCbCr", "LAB", "HSV", "1", "PA", "La", "RGBa"):
                upright = upright.convert("RGB")
            pixels = np.asarray(upright)
    except FileNotFoundError as error:
        raise UserError(f"there is no image at {path}; give the path of one") from error
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise UserError(
            f"the image {path} cannot be read ({one_line(error, 150)}); it is damaged or not an image: replace it"
        ) from error
    return check_image(pixels, f"the image {path}")


def check_image(image: np.ndarray, name: str = "the image") -> RgbImage:
    """Image as uint8 (H, W, 3).

    Args:
        image: (H, W), (H, W, 1), (H, W, 2), (H, W, 3) or (H, W, 4): grey or RGB, an alpha channel is dropped; uint8,
            uint16 (or wider integers up to 65535), bool, or floats in [0, 1].
        name: of the image in an error.

    Raises UserError for another shape or type, a side below MIN_SIDE, or values that are not finite.
    """
    image = np.asarray(image)
    channels = image.shape[2] if image.ndim == 3 else 1
    if image.ndim not in (2, 3) or channels not in (1, 2, 3, 4):
        raise UserError(f"{name} has the shape {image.shape}; give it as (height, width) or (height, width, channels)")
    if min(image.shape[:2]) < MIN_SIDE:
        raise UserError(
            f"{name} has {image.shape[1]}x{image.shape[0]} pixels; "
            f"front-ends need at least {MIN_SIDE}x{MIN_SIDE}: give a larger one"
        )
    colours = image.reshape(*image.shape[:2], channels)[..., : channels - (channels in (2, 4))]
    return np.ascontiguousarray(np.broadcast_to(_as_bytes(colours, name), (*image.shape[:2], 3)))


def _as_bytes(values: np.ndarray, name: str) -> RgbImage:
    if values.dtype == np.uint8:
        return values
    if values.dtype == bool:
        return values.astype(np.uint8) * 255
    low, high = float(values.min()), float(values.max())
    if np.issubdtype(values.dtype, np.integer) and low >= 0 and high <= 65535:
        return (values.astype(np.uint32) // 257 if high > 255 or values.dtype == np.uint16 else values).astype(np.uint8)
    if np.issubdtype(values.dtype, np.floating) and low >= 0 and high <= 1:  # False for NaN
        return (values * 255 + 0.5).astype(np.uint8)
    raise UserError(
        f"{name} has values of type {values.dtype} between {low:g} and {high:g}; "
        "give uint8, uint16, or floats between 0 and 1"
    )
