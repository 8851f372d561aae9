"""Vision front-ends, each usable alone and beside a policy: one folder per vision model, with everything of it.

Every folder has the same files: `model.py` (network), `losses.py`, `training.py` (what `task=perception/<name>` trains)
and `metrics.py`; a front-end also has `frontend.py`.
"""

from .base import Feature, Findings, Frontend, feature_key, find_in_images
from .images import RgbImage, check_image, read_image
from .registry import frontend_class, load_frontend

__all__ = [
    "Feature",
    "Findings",
    "Frontend",
    "RgbImage",
    "check_image",
    "feature_key",
    "find_in_images",
    "frontend_class",
    "load_frontend",
    "read_image",
]
