"""Image classifiers: any network of timm, with its classes and its normalisation."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..errors import UserError, did_you_mean, nearest_names, one_line, warn_once
from ..files import model_in, write_whole
from ..hub_files import check_model_folder
from ..network_size import bounded_network, stored_size
from ..untrusted import check_values, inside, read_json_object
from .cct.model import default_cfgs  # the import registers the variants with timm
from .tinyvit.model import VARIANTS, is_tinyvit, make_tinyvit, timm_name

CONFIG, WEIGHTS = "config.json", "model.safetensors"
_MAX_BYTES, _MAX_SIDE = 1 << 20, 4096
_ABOUT_FILES = re.compile(r"pretrained|checkpoint|cache|hf_|file|url|path|scriptable|exportable|features_only")
NETWORKS = [*VARIANTS, *default_cfgs]  # short names; all names of timm work too


class Normalise(nn.Module):
    """Images (B, 3, H, W) in [0, 1] minus a mean, over a standard deviation."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return ((images - self.mean) / self.std).to(images.dtype)


class Classifier(nn.Module):
    """Classifier of images (B, 3, H, W), float in [0, 1], to logits (B, classes).

    Args:
        name: one of NETWORKS or of timm's models.
        classes: names of the classes.
        image_size: side in pixels of the images.
        pretrained: start with the weights that timm knows for the name, or with those of another classifier, given as
            its folder or run folder. The last layer is not loaded where the number of classes differs.
        network: further options of the network.
    """

    def __init__(self, name: str, classes: list[str], image_size: int, pretrained: bool | str = False, **network: Any):
        super().__init__()
        self.name, self.classes, self.image_size, self.network = name, list(classes), image_size, network
        self.net = make_network(name, image_size, pretrained, num_classes=len(classes), **network)
        self.normalise = Normalise(self.net.pretrained_cfg["mean"], self.net.pretrained_cfg["std"])

    def forward(self, images: Tensor) -> Tensor:
        return self.net(self.normalise(images))

    def save(self, folder: Path, weights: Mapping[str, Tensor] | None = None) -> None:
        """Write config.json and model.safetensors; `weights` replace those of the network, by name."""
        folder.mkdir(parents=True, exist_ok=True)
        state = self.state_dict() if weights is None else weights
        save_file({name.removeprefix("net."): value.contiguous() for name, value in state.items()}, folder / WEIGHTS)
        config = {"model": self.name, "image_size": self.image_size, "classes": self.classes, "network": self.network}
        write_whole(folder / CONFIG, json.dumps(config, indent=1))

    @classmethod
    def load(cls, folder: Path | str) -> "Classifier":
        """Classifier of a folder, or the best one of a run, in evaluation mode. Raises UserError if there is none."""
        folder = find_classifier(folder)
        config = read_config(folder)
        check_network_options(config["network"])
        try:
            with bounded_network(folder):
                classifier = cls(config["model"], config["classes"], config["image_size"], **config["network"])
            classifier.net.load_state_dict(load_file(folder / WEIGHTS))
        except (OSError, RuntimeError, SafetensorError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(
                f"{folder / WEIGHTS} cannot be loaded ({one_line(error)}); use another checkpoint"
            ) from error
        return classifier.eval()


def make_network(name: str, image_size: int, pretrained: bool | str = False, **kwargs: Any) -> Any:
    """Network of timm for square images.

    Args:
        name: one of NETWORKS or of timm's models, which may have a tag of released weights.
        image_size: side in pixels of the images.
        pretrained: True for the weights that timm knows, or the folder (or run folder) of a `Classifier`.
        kwargs: further arguments of `timm.create_model`.

    Raises UserError for an unknown name, and for weights that cannot be loaded or do not fit.
    """
    check_network_name(name)
    name = timm_name(name)
    architecture = name.split(".")[0]
    if isinstance(pretrained, str):
        folder = find_classifier(pretrained)
        config = read_config(folder)
        if (stored := timm_name(config["model"]).split(".")[0]) != architecture:
            raise UserError(f"{folder} holds weights of '{stored}', not '{architecture}'; choose that model or others")
        overlay = {"file": str(folder / WEIGHTS), "num_classes": len(config["classes"])}
        kwargs["pretrained_cfg_overlay"] = overlay
    try:
        if is_tinyvit(name):
            net = make_tinyvit(name, image_size, pretrained=bool(pretrained), **kwargs)
        else:
            if timm.get_pretrained_cfg(architecture, allow_unregistered=True).fixed_input_size:
                kwargs["img_size"] = image_size
            net = timm.create_model(name, pretrained=bool(pretrained), **kwargs)
    except (OSError, RuntimeError, SafetensorError) as error:
        if not pretrained:
            raise
        raise UserError(
            f"the pretrained weights of '{name}' could not be loaded ({type(error).__name__}: {one_line(error)}); "
            "check the name's tag and the network, give a folder that holds them, or start without"
        ) from error
    stored_classes = net.pretrained_cfg.get("num_classes")
    if pretrained and kwargs.get("num_classes", stored_classes) != stored_classes:
        source = pretrained if isinstance(pretrained, str) else name
        warn_once(f"{source}: its classifier of {stored_classes} classes is not used")
    return net


def check_network_name(name: str) -> None:
    """Raise UserError unless `name` is one of NETWORKS or of timm's models, naming the nearest."""
    architecture = timm_name(name).split(".")[0]
    if not timm.is_model(architecture):
        known = [*NETWORKS, *timm.list_models()]
        hint = did_you_mean(architecture, known if nearest_names(architecture, known) else NETWORKS)
        raise UserError(f"timm has no model '{name}'; {hint}")


def check_network_options(options: Any) -> None:
    """Raise UserError for options of a network that name files or code; numbers and short names pass.

    timm would load a file that `checkpoint_path` or `pretrained_cfg` names.
    """
    for key, value in options.items() if isinstance(options, Mapping) else [("network", None)]:
        values = value if isinstance(value, list | tuple) else [value]
        is_plain = all(
            isinstance(entry, bool | int | float) or re.fullmatch(r"[\w-]{1,40}", str(entry)) for entry in values
        )
        if not isinstance(options, Mapping) or _ABOUT_FILES.match(str(key)) or not is_plain:
            raise UserError(
                f"a classifier's network cannot have the option {str(key)[:50]!r} with {str(value)[:80]!r}; "
                "options are numbers and names of layers"
            )


def find_classifier(folder: Path | str) -> Path:
    """Folder with a classifier's config.json, at `folder` or in that run. Raises UserError if there is none."""
    if checkpoint := model_in(folder):
        inside(folder, str(checkpoint.relative_to(folder)))  # not through a link that leaves the run
        check_model_folder(checkpoint)
        return checkpoint
    raise UserError(f"there is no classifier at {folder}; train one: python train.py task=perception/cct")


def check_classifier(folder: Path | str) -> None:
    """Raise UserError unless a folder or run holds a complete classifier; nothing of it is made."""
    checkpoint = find_classifier(folder)
    check_network_options(read_config(checkpoint)["network"])
    stored_size(checkpoint)


def read_config(folder: Path) -> dict[str, Any]:
    """Content of a classifier's config.json: model, image_size, classes, network. Raises UserError for other files."""
    try:
        config = read_json_object(folder / CONFIG, _MAX_BYTES)
        check_values(config, CONFIG)
        model, size, classes, network = (config[name] for name in ("model", "image_size", "classes", "network"))
    except (UserError, KeyError) as error:
        raise UserError(
            f"{folder / CONFIG} is not of a classifier ({type(error).__name__}: {one_line(error, 200)}); "
            "give another folder"
        ) from error
    is_names = isinstance(classes, list) and all(isinstance(name, str) for name in classes)
    if not isinstance(model, str) or type(size) is not int or not 1 <= size <= _MAX_SIDE or not is_names:
        raise UserError(f"{folder / CONFIG} has an unsuitable model, image_size or classes; give another folder")
    return {"model": model, "image_size": size, "classes": classes, "network": network}
