"""Front-ends of a TinyVLA policy: frozen, beside the model, in folders of their own in a checkpoint."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tinyvla.errors import UserError
from tinyvla.frontends import Feature, Frontend, feature_key, frontend_class, load_frontend

FOLDER = "front_ends"  # of a checkpoint


class Frontends:
    """What a policy's front-ends see in its cameras' pictures.

    Args:
        options: by name, what `policy.frontend` says: `checkpoint`, the folder of a trained one, or none for a
            front-end that needs no training; the rest overrides the options that it was saved with.
        cameras: keys of the pictures, observation.images.<camera>.
        image_size: height and width of the pictures.

    Raises UserError for an unknown front-end or option, or a checkpoint that cannot be loaded.
    """

    def __init__(self, options: Mapping[str, Mapping[str, Any]], cameras: list[str], image_size: tuple[int, int]):
        self.parts = {name: make_frontend(name, own) for name, own in options.items()}
        self._places: dict[str, tuple[str, str, str]] = {}  # by key: camera, front-end, short name
        self.features: dict[str, Feature] = {}
        for camera in cameras:
            for name, part in self.parts.items():
                for short, feature in part.adds(image_size).items():
                    key = feature_key(camera.rpartition(".")[2], name, short, feature)
                    self._places[key], self.features[key] = (camera, name, short), feature

    def __bool__(self) -> bool:
        return bool(self.parts)

    @property
    def pictures(self) -> list[str]:
        """Keys of what is one more picture to the policy."""
        return [key for key, feature in self.features.items() if feature.is_picture]

    @property
    def token_sizes(self) -> dict[str, int]:
        """Widths of what is tokens, by keys as a module may have them."""
        return {_module_name(key): f.shape[-1] for key, f in self.features.items() if not f.is_picture}

    @torch.no_grad()
    def see(self, images: Mapping[str, Tensor], instructions: list[str]) -> dict[str, Tensor]:
        """Every feature, (B, *shape), of pictures (B, 3, H, W) in [0, 1] by camera, and B instructions."""
        seen: dict[tuple[str, str], dict[str, Tensor]] = {}
        for camera, name, _ in self._places.values():
            if (camera, name) not in seen:
                part = self.parts[name].to(images[camera].device)
                seen[camera, name] = part.see(images[camera].float(), instructions)
        return {key: seen[camera, name][short] for key, (camera, name, short) in self._places.items()}

    def inputs(self, batch: Mapping[str, Any], instructions: list[str]) -> tuple[list[Tensor], dict[str, Tensor]]:
        """A batch's further pictures, and its further tokens by module name; what is not in it already is computed."""
        if missing := [key for key in self.features if key not in batch]:
            cameras = {self._places[key][0] for key in missing}
            batch = {**batch, **self.see({camera: batch[camera] for camera in cameras}, instructions)}
        tokens = {_module_name(key): batch[key] for key, f in self.features.items() if not f.is_picture}
        return [batch[key] for key in self.pictures], {key: value.float() for key, value in tokens.items()}

    def save(self, folder: Path) -> None:
        """Write every front-end to its folder below a checkpoint's."""
        for name, part in self.parts.items():
            part.save(folder / FOLDER / name)


def _module_name(key: str) -> str:
    return key.replace(".", "_")


def make_frontend(name: str, options: Mapping[str, Any]) -> Frontend:
    """A front-end in evaluation mode, frozen, by its name and what `policy.frontend` says of it, see `Frontends`."""
    options = dict(options)
    checkpoint = options.pop("checkpoint", None)
    try:
        made = load_frontend(checkpoint, **options) if checkpoint else frontend_class(name)(**options)
    except TypeError as error:
        raise UserError(f"front-end '{name}' does not take these options ({error}); mend frontend.{name}") from error
    if made.name != name:
        raise UserError(
            f"{checkpoint} holds the front-end '{made.name}', not '{name}'; mend frontend.{name}.checkpoint"
        )
    return made.eval().requires_grad_(False)


def carried(options: Mapping[str, Mapping[str, Any]], checkpoint: Path) -> dict[str, dict[str, Any]]:
    """The options that load the front-ends that a checkpoint carries, each with its own options beside its weights."""
    return {name: {"checkpoint": str(checkpoint / FOLDER / name)} for name in options}
