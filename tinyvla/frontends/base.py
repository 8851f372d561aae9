"""The front-end seam: camera pictures and an instruction go in, further features of an observation come out.

A front-end stands beside a policy, frozen: what it sees is one more input. It is also usable alone (`perceive.py`).
Third parties add theirs as an entry point of the group `tinyvla.frontends`, named as in `frontend=<name>`, that loads
a subclass of `Frontend`.
"""

import contextlib
import difflib
import json
from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

from ..errors import UserError
from ..files import model_in, write_whole
from .images import Picture

GROUP = "tinyvla.frontends"
FORMER_GROUP = "tinyvla.front_ends"  # entry points of packages made before
OURS = {"tinysam": "tinysam.frontend:TinySAM", "tinyclip": "tinyclip.frontend:TinyCLIP", "wake": "wake.frontend:Wake"}
CONFIG, WEIGHTS = "config.json", "model.safetensors"


class Feature(NamedTuple):
    """What a front-end adds to an observation under a key.

    shape: of one sample. A picture has (3, H, W), float in [0, 1], and is to a policy another camera's; tokens have
        (K, D).
    """

    shape: tuple[int, ...]

    @property
    def is_picture(self) -> bool:
        return len(self.shape) == 3


class Findings(NamedTuple):
    """What a front-end has to say about one picture on its own.

    picture: a copy with the findings drawn into it, uint8 (H, W, 3).
    records: the same as JSON: a dict a finding.
    """

    picture: Picture
    records: list[dict[str, Any]]


class Frontend(nn.Module):
    """A vision system. Subclasses set `name`, keep what rebuilds them in `options`, and implement what raises here."""

    name: ClassVar[str]
    options: dict[str, Any]  # of __init__, JSON

    def adds(self, image_size: tuple[int, int]) -> dict[str, Feature]:
        """The features that it adds for every camera of pictures (height, width), by short names."""
        raise NotImplementedError

    def see(self, images: Tensor, instructions: list[str]) -> dict[str, Tensor]:
        """Features by the names of `adds`, (B, *shape), of B pictures (B, 3, H, W), float in [0, 1], of one camera."""
        raise NotImplementedError

    def find(self, image: Picture, **request: Any) -> Findings:
        """Look at one picture uint8 (H, W, 3) on its own; `request`: what is asked for, by the front-end's own names.

        Raises UserError for a request that cannot be met.
        """
        raise NotImplementedError

    def save(self, folder: Path) -> None:
        """Write config.json and model.safetensors, from which `load_frontend` makes it again."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file({key: value.contiguous() for key, value in self.state_dict().items()}, folder / WEIGHTS)
        write_whole(folder / CONFIG, json.dumps({"front_end": self.name, "options": self.options}, indent=1))

    @classmethod
    def load(cls, folder: Path, options: Mapping[str, Any]) -> Self:
        """Make it from `options` and the weights in a folder."""
        made = cls(**options)
        made.load_state_dict(load_file(folder / WEIGHTS))
        return made.eval()


def feature_key(camera: str, frontend: str, feature: str, kind: Feature) -> str:
    """The observation's key of what a front-end adds for a camera."""
    place = "observation.images." if kind.is_picture else "observation.tokens."
    return f"{place}{camera}_{frontend}_{feature}"


def frontend_class(name: str) -> type[Frontend]:
    """The class of a front-end, ours or a third party's. Raises UserError for an unknown one, naming the nearest."""
    others = {entry.name: entry for group in (FORMER_GROUP, GROUP) for entry in entry_points(group=group)}
    if name in OURS:
        module, _, attribute = OURS[name].partition(":")
        return getattr(import_module(f"{__package__}.{module}"), attribute)
    if name in others:
        return others[name].load()
    known = sorted({*OURS, *others})
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.3) or known
    raise UserError(f"unknown front-end '{name}'; did you mean {' or '.join(near)}?")


def load_frontend(folder: Path | str, **options: Any) -> Frontend:
    """The front-end saved in a folder, or the best one of a run folder of train.py, in evaluation mode.

    options: used instead of those that it was saved with.

    Raises UserError if there is none, or its files are damaged.
    """
    if (found := model_in(folder)) is None:
        raise UserError(f"there is no front-end at {folder}; train one: python train.py task=perception/<name>")
    try:
        config = json.loads((found / CONFIG).read_text())
        return frontend_class(config["front_end"]).load(found, config["options"] | options)
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"the front-end in {found} cannot be loaded ({type(error).__name__}: {reason}); "
            "it may be cut short: use another checkpoint, or train again"
        ) from error


def look_at(frontend: Frontend, pictures: Iterable[Picture], request: Mapping[str, Any]) -> Iterator[Findings]:
    """What is found in picture after picture, as they are asked for; Ctrl-C ends it as the last one would.

    request: what `find` takes, None for what is not asked.
    """
    asked = {key: value for key, value in request.items() if value is not None}
    with contextlib.suppress(KeyboardInterrupt):
        for picture in tqdm(pictures, "looking", unit="picture", delay=1):
            yield frontend.find(picture, **asked)
