"""Front-ends of a TinyVLA policy: frozen vision models beside the backbone, each in a folder of the checkpoint."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tinyvla.errors import UserError
from tinyvla.frontends import Feature, Frontend, feature_key, frontend_class, load_frontend
from tinyvla.untrusted import inside

FOLDER = "front_ends"  # of a checkpoint


class Frontends:
    """Front-ends of a policy, and their features of its cameras' images.

    Args:
        options: by name, those of `policy.frontend`: `checkpoint`, the folder of a trained one or its authors' file,
            absent for a front-end that needs no training; the others override the options that it was saved with.
        cameras: keys of the images, observation.images.<camera>.
        image_size: height and width of the images.

    Raises UserError for an unknown front-end or option, or a checkpoint that cannot be loaded.
    """

    def __init__(self, options: Mapping[str, Mapping[str, Any]], cameras: list[str], image_size: tuple[int, int]):
        self.frontends = {name: make_frontend(name, section) for name, section in options.items()}
        self._sources: dict[str, tuple[str, str, str]] = {}  # by key: camera, front-end, short name
        self.features: dict[str, Feature] = {}
        for camera in cameras:
            for name, frontend in self.frontends.items():
                for short, feature in frontend.adds(image_size).items():
                    key = feature_key(camera.rpartition(".")[2], name, short, feature)
                    self._sources[key], self.features[key] = (camera, name, short), feature

    def __bool__(self) -> bool:
        return bool(self.frontends)

    @property
    def image_keys(self) -> list[str]:
        """Keys of the features that are images to the policy, like another camera's."""
        return [key for key, feature in self.features.items() if feature.is_image]

    @property
    def token_sizes(self) -> dict[str, int]:
        """Widths of the features that are tokens, by their names in a module."""
        return {_module_name(key): f.shape[-1] for key, f in self.features.items() if not f.is_image}

    @torch.no_grad()
    def see(self, images: Mapping[str, Tensor], instructions: list[str]) -> dict[str, Tensor]:
        """Every feature, (B, *shape), of images (B, 3, H, W) in [0, 1] by camera, and B instructions."""
        features: dict[tuple[str, str], dict[str, Tensor]] = {}
        for camera, name, _ in self._sources.values():
            if (camera, name) not in features:
                frontend = self.frontends[name].to(images[camera].device)
                features[camera, name] = frontend.see(images[camera].float(), instructions)
        return {key: features[camera, name][short] for key, (camera, name, short) in self._sources.items()}

    def inputs(self, batch: Mapping[str, Any], instructions: list[str]) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Images and, by module name, tokens that the front-ends add to a batch; computed unless the batch has them."""
        if missing := [key for key in self.features if key not in batch]:
            cameras = {self._sources[key][0] for key in missing}
            batch = {**batch, **self.see({camera: batch[camera] for camera in cameras}, instructions)}
        tokens = {_module_name(key): batch[key] for key, f in self.features.items() if not f.is_image}
        return [batch[key] for key in self.image_keys], {key: value.float() for key, value in tokens.items()}

    def save(self, folder: Path) -> None:
        """Write every front-end to its folder below a checkpoint's."""
        for name, frontend in self.frontends.items():
            frontend.save(folder / FOLDER / name)


def _module_name(key: str) -> str:
    return key.replace(".", "_")


def make_frontend(name: str, options: Mapping[str, Any]) -> Frontend:
    """A frozen front-end in evaluation mode, by its name and its section of `policy.frontend`, see `Frontends`."""
    options = dict(options)
    checkpoint = options.pop("checkpoint", None)
    try:
        if checkpoint and Path(checkpoint).expanduser().is_file():
            frontend = frontend_class(name).from_pretrained(checkpoint)
        else:
            frontend = load_frontend(checkpoint, **options) if checkpoint else frontend_class(name)(**options)
    except TypeError as error:
        raise UserError(f"front-end '{name}' does not take these options ({error}); change frontend.{name}") from error
    if frontend.name != name:
        raise UserError(
            f"{checkpoint} holds the front-end '{frontend.name}', not '{name}'; change frontend.{name}.checkpoint"
        )
    return frontend.eval().requires_grad_(False)


def checkpoint_options(options: Mapping[str, Mapping[str, Any]], checkpoint: Path) -> dict[str, dict[str, Any]]:
    """Options that load the front-ends of a checkpoint, which holds their options and weights.

    Raises UserError for a name that leads out of the checkpoint.
    """
    return {name: {"checkpoint": str(inside(checkpoint, f"{FOLDER}/{name}"))} for name in options}
