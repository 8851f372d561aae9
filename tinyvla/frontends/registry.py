"""Front-ends and vision tasks by name, of this repository and of installed packages.

A package adds a front-end, a subclass of `Frontend`, and what trains it, a subclass of `VisionTrainable`, through entry
points:

    [project.entry-points."tinyvla.frontends"]
    my_frontend = "my_package.frontend:MyFrontend"

    [project.entry-points."tinyvla.vision_tasks"]
    my_frontend = "my_package.training:MyTrainable"
"""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from ..errors import UserError, one_line
from ..files import model_in
from ..registry import Registry
from .base import CONFIG, NAME_KEY, Frontend

_HERE = "tinyvla.frontends"
FRONTENDS = Registry(
    "front-end",
    "tinyvla.frontends",
    {
        "tinysam": f"{_HERE}.tinysam.frontend:TinySAM",
        "tinyclip": f"{_HERE}.tinyclip.frontend:TinyCLIP",
        "wake": f"{_HERE}.wake.frontend:Wake",
    },
    former_group="tinyvla.front_ends",
)
TRAINABLES = Registry(
    "vision task",
    "tinyvla.vision_tasks",
    {
        "cct": f"{_HERE}.cct.training:CctTrainable",
        "tinyclip": f"{_HERE}.tinyclip.training:TinyClipTrainable",
        "tinysam": f"{_HERE}.tinysam.training:TinySamTrainable",
        "tinyvit": f"{_HERE}.tinyvit.training:TinyVitTrainable",
        "wake": f"{_HERE}.wake.training:WakeTrainable",
    },
)


def frontend_class(name: str) -> type[Frontend]:
    """Class of a front-end. Raises UserError for an unknown name, with the nearest ones."""
    return FRONTENDS.load(name)


def load_frontend(folder: Path | str, **options: Any) -> Frontend:
    """Front-end saved in a folder, or the best one of a run folder of train.py, in evaluation mode.

    Args:
        folder: of a front-end or of a run.
        options: replace those that it was saved with.

    Raises UserError if there is none, or if its files are damaged.
    """
    if (checkpoint := model_in(folder)) is None:
        raise UserError(f"there is no front-end at {folder}; train one: python train.py task=perception/<name>")
    try:
        config = json.loads((checkpoint / CONFIG).read_text())
        return frontend_class(config[NAME_KEY]).load(checkpoint, config["options"] | options)
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
        raise UserError(
            f"the front-end in {checkpoint} cannot be loaded ({type(error).__name__}: {one_line(error)}); "
            "it may be cut short: use another checkpoint, or train again"
        ) from error
