"""Sizes of the stages of multi-stage progressive distillation of a CLIP (arXiv 2309.12314, 3.3)."""

from collections.abc import Mapping
from typing import Any

from transformers import CLIPModel

from tinyvla.frontends.tinyclip.model import TOWERS, sizes_of


def shape_of(clip: CLIPModel) -> dict[str, dict[str, int]]:
    """Sizes of a model in the form that `inherit` takes; of the largest layer, where layers differ."""
    shapes = {}
    for name in TOWERS:
        size = sizes_of(clip.config, name)
        shapes[name] = {"layers": len(size["heads"]), "width": size["width"]}
        shapes[name] |= {"heads": max(size["heads"]), "units": max(size["units"])}
    return shapes


def stage_shapes(clip: CLIPModel, shape: Mapping[str, Mapping[str, int]], stages: int) -> list[dict[str, Any]]:
    """Shapes of multi-stage progressive distillation (3.3), `shape` last.

    Every size shrinks in equal steps, rounded up; each stage inherits from the one before.
    """
    first = shape_of(clip)

    def between(stage: int, name: str, kind: str) -> int:
        start = first[name][kind]
        end = shape.get(name, {}).get(kind) or start
        return start - (start - end) * stage // stages

    return [
        {name: {kind: between(stage, name, kind) for kind in first[name]} for name in TOWERS}
        for stage in range(1, stages + 1)
    ]
