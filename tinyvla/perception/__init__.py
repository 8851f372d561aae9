"""Vision front-ends: each usable alone, and as a plug-in of a policy. `frontend.py` is what they share."""

from .frontend import Feature, Findings, FrontEnd, feature_key, front_end_class, load_front_end, look_at
from .images import Picture, check_image, read_image

__all__ = [
    "Feature",
    "Findings",
    "FrontEnd",
    "Picture",
    "check_image",
    "feature_key",
    "front_end_class",
    "load_front_end",
    "look_at",
    "read_image",
]
