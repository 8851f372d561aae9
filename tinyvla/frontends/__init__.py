"""Vision front-ends: each usable alone, and as a plug-in of a policy. `frontend.py` is what they share."""

from .base import Feature, Findings, Frontend, feature_key, frontend_class, load_frontend, look_at
from .images import Picture, check_image, read_image

__all__ = [
    "Feature",
    "Findings",
    "Frontend",
    "Picture",
    "check_image",
    "feature_key",
    "frontend_class",
    "load_frontend",
    "look_at",
    "read_image",
]
