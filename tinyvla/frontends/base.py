"""Interface of a front-end: camera images and an instruction in, further features of an observation out.

A front-end stands frozen beside a policy, and its features are further inputs of the policy. It is also usable alone
(`perceive.py`).
"""

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

from ..errors import UserError
from ..files import write_whole
from .images import RgbImage

CONFIG, WEIGHTS = "config.json", "model.safetensors"
EXAMPLES = "pictures"  # folder of a run with the example images that the report shows
NAME_KEY = "front_end"  # of the name in config.json; checkpoints hold it, so it keeps this spelling


class Feature(NamedTuple):
    """Feature that a front-end adds to an observation.

    shape: of one sample. An image has (3, H, W), float in [0, 1], and is one more camera to the policy; tokens have
        (K, D).
    """

    shape: tuple[int, ...]

    @property
    def is_image(self) -> bool:
        return len(self.shape) == 3


class Findings(NamedTuple):
    """Result of a front-end on one image.

    image: a copy with the findings drawn into it, uint8 (H, W, 3).
    records: one JSON dict per finding.
    """

    image: RgbImage
    records: list[dict[str, Any]]


class Frontend(nn.Module):
    """A vision model. Subclasses set `name` and `options` and implement `adds`, `see` and `find`.

    Attributes:
        name: as in `frontend=<name>`.
        options: keyword arguments of `__init__` that rebuild the front-end, as JSON.
    """

    name: ClassVar[str]
    options: dict[str, Any]

    def adds(self, image_size: tuple[int, int]) -> dict[str, Feature]:
        """Features, by short name, that are added per camera of images (height, width)."""
        raise NotImplementedError

    def see(self, images: Tensor, instructions: list[str]) -> dict[str, Tensor]:
        """Features (B, *shape), by the names of `adds`, of one camera's images (B, 3, H, W), float in [0, 1]."""
        raise NotImplementedError

    def find(self, image: RgbImage, **request: Any) -> Findings:
        """Findings in one image uint8 (H, W, 3).

        Args:
            image: the image.
            request: what to find, by the front-end's own names.

        Raises UserError for a request that the front-end does not support.
        """
        raise NotImplementedError

    def save(self, folder: Path) -> None:
        """Write config.json and model.safetensors, which `load_frontend` reads."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file({key: value.contiguous() for key, value in self.state_dict().items()}, folder / WEIGHTS)
        write_whole(folder / CONFIG, json.dumps({NAME_KEY: self.name, "options": self.options}, indent=1))

    @classmethod
    def check_stored(cls, options: Mapping[str, Any]) -> None:
        """Raise UserError for options that `save` never writes, such as paths out of the folder. Default: none."""

    @classmethod
    def from_pretrained(cls, name: str | Path) -> Self:
        """Front-end of a file that the authors of its paper have released. Default: UserError, there is none."""
        raise UserError(f"{name} is a file; give the folder of a front-end of train.py task=perception/{cls.name}")

    @classmethod
    def load(cls, folder: Path, options: Mapping[str, Any]) -> Self:
        """Front-end with these options and the weights in a folder, in evaluation mode."""
        frontend = cls(**options)
        frontend.load_state_dict(load_file(folder / WEIGHTS))
        return frontend.eval()


def feature_key(camera: str, frontend: str, name: str, feature: Feature) -> str:
    """Observation key of a front-end's feature for a camera."""
    prefix = "observation.images." if feature.is_image else "observation.tokens."
    return f"{prefix}{camera}_{frontend}_{name}"


def find_in_images(frontend: Frontend, images: Iterable[RgbImage], request: Mapping[str, Any]) -> Iterator[Findings]:
    """Findings in each image, computed on demand. Ctrl-C ends the sequence like its last image.

    Args:
        frontend: in evaluation mode.
        images: uint8 (H, W, 3) each.
        request: arguments of `find`; None for those that are not given.
    """
    request = {key: value for key, value in request.items() if value is not None}
    with contextlib.suppress(KeyboardInterrupt):
        for image in tqdm(images, "processing", unit="image", delay=1):
            yield frontend.find(image, **request)
