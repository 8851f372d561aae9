"""How front-ends and other vision models are trained: one file each, and what they share in `base.py`."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from .base import Pictures, VisionTrainee

_TRAINEES = {
    "cct": "classification:ClassificationTrainee",
    "tinyclip": "tinyclip:ClipTrainee",
    "tinysam": "tinysam:SamTrainee",
    "tinyvit": "distillation:DistillationTrainee",
    "wake": "wake:WakeTrainee",
}


def make_trainee(
    options: Mapping[str, Any], data: Mapping[str, Pictures], seed: int, part: tuple[int, int] = (0, 1)
) -> VisionTrainee:
    """What `task.name` of the options names, to be trained on pictures by split; see the classes for the options."""
    module, _, name = _TRAINEES[options["name"]].partition(":")
    return getattr(import_module(f"{__name__}.{module}"), name)(options, data, seed, part)
