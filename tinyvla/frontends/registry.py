"""Front-ends and what trains them, by name."""

from collections.abc import Mapping
from typing import Any

from ..registry import Registry
from .training import LabelledScenes, VisionTrainable

_HERE = "tinyvla.frontends"
TRAINABLES = Registry(
    "vision task",
    "tinyvla.vision_tasks",
    {
        "cct": f"{_HERE}.cct.training:ClassificationTrainable",
        "tinyclip": f"{_HERE}.tinyclip.training:ClipTrainable",
        "tinysam": f"{_HERE}.tinysam.training:SamTrainable",
        "tinyvit": f"{_HERE}.tinyvit.training:DistillationTrainable",
        "wake": f"{_HERE}.wake.training:WakeTrainable",
    },
)


def make_trainable(
    options: Mapping[str, Any], data: Mapping[str, LabelledScenes], seed: int, part: tuple[int, int] = (0, 1)
) -> VisionTrainable:
    """Trainable that `task.name` of the options names, on labelled images by split; its class describes the options."""
    return TRAINABLES.load(options["name"])(options, data, seed, part)
