"""Front-ends and vision tasks by name, of this repository and of installed packages.

A package adds a front-end, a subclass of `Frontend`, and what trains it, a subclass of `VisionTrainable`, through entry
points:

    [project.entry-points."tinyvla.frontends"]
    my_frontend = "my_package.frontend:MyFrontend"

    [project.entry-points."tinyvla.vision_tasks"]
    my_frontend = "my_package.training:MyTrainable"
"""

from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from ..errors import UserError, one_line
from ..files import model_in
from ..hub_files import check_model_folder
from ..network_size import bounded_network
from ..registry import Registry
from ..untrusted import check_values, inside, read_json_object
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


_MAX_BYTES = 4 << 20
# What a damaged checkpoint, or unsuitable values in it, make the libraries' classes raise.
_FAULTS = (
    *(OSError, ValueError, TypeError, KeyError, IndexError, AttributeError, AssertionError, ArithmeticError),
    *(RuntimeError, SafetensorError, StrictDataclassError),
)


def frontend_class(name: str) -> type[Frontend]:
    """Class of a front-end. Raises UserError for an unknown name, with the nearest ones."""
    return FRONTENDS.load(name)


def load_frontend(folder: Path | str, **options: Any) -> Frontend:
    """Front-end saved in a folder, or the best one of a run folder of train.py, in evaluation mode.

    Args:
        folder: of a front-end or of a run. Nothing of it is run: see docs/security.md.
        options: replace those that it was saved with.

    Raises UserError if there is none, if its files are damaged, or if they are refused.
    """
    if (checkpoint := model_in(folder)) is None:
        raise UserError(f"there is no front-end at {folder}; train one: python train.py task=perception/<name>")
    inside(folder, str(checkpoint.relative_to(folder)))  # not through a link that leaves the run
    try:
        frontend, stored = read_frontend(checkpoint)
        with bounded_network(checkpoint):
            return frontend.load(checkpoint, stored | options)
    except UserError as error:
        raise UserError(f"the front-end in {checkpoint} cannot be loaded: {error}") from error
    except _FAULTS as error:
        raise UserError(
            f"the front-end in {checkpoint} cannot be loaded ({type(error).__name__}: {one_line(error)}); "
            "it may be cut short: use another checkpoint, or train again"
        ) from error


def read_frontend(checkpoint: Path) -> tuple[type[Frontend], dict[str, Any]]:
    """Class and stored options of a front-end, of which nothing is made. Raises UserError if they are refused."""
    check_model_folder(checkpoint)
    config = read_json_object(checkpoint / CONFIG, _MAX_BYTES)
    check_values(config, str(checkpoint / CONFIG))
    name, options = config.get(NAME_KEY), config.get("options")
    if not isinstance(name, str) or not isinstance(options, dict):
        raise UserError(f"{checkpoint / CONFIG} is not of a front-end; give the folder of one, or train it again")
    frontend = frontend_class(name)
    frontend.check_stored(options)
    return frontend, options
