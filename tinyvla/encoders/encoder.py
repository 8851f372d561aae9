"""Image encoders by name, for whoever wants a map of features or logits: front-ends, policies, distillation."""

import difflib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..errors import UserError
from ..files import model_in, write_whole
from ..frontends.cct import model as cct  # registers its variants with timm
from ..frontends.tinyvit.model import STRIDES, VARIANTS, cut, is_tinyvit, make_tinyvit, map_sides, timm_name

CONFIG, WEIGHTS = "config.json", "model.safetensors"
ENCODERS = [*VARIANTS, *cct.default_cfgs]


class Colours(nn.Module):
    """Pictures (B, 3, H, W) in [0, 1] to what a network was trained on: minus a mean, over a standard deviation."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return ((images - self.mean) / self.std).to(images.dtype)


class Encoder(nn.Module):
    """An image encoder without its classifier: pictures to one map of features.

    Attributes:
        num_features: channels of the map.
        map_size: its height and width.
    """

    def __init__(self, net: Any, map_size: tuple[int, int]):
        super().__init__()
        self.net = net
        self.colours = Colours(self.net.pretrained_cfg["mean"], self.net.pretrained_cfg["std"])
        self.num_features: int = self.net.num_features
        self.map_size = map_size

    def forward_map(self, images: Tensor) -> Tensor:
        """Features (B, num_features, h, w) of pictures (B, 3, H, W), float in [0, 1]."""
        features = self.net.forward_features(self.colours(images))
        if features.ndim == 3:  # tokens
            features = features[:, self.net.num_prefix_tokens :].transpose(1, 2).unflatten(2, self.map_size)
        return features

    forward = forward_map


class Classifier(nn.Module):
    """A timm model, ours or any other, for pictures (B, 3, H, W), float in [0, 1]: logits (B, classes).

    Args:
        name: one of ENCODERS or of timm's models.
        classes: the classes' names.
        image_size: side in pixels of the pictures.
        pretrained: begin with the weights that timm knows for the name, or with those of another classifier, by its
            folder or run folder; but for the last layer where the classes are not as many.
        network: further options of the network.
    """

    def __init__(self, name: str, classes: list[str], image_size: int, pretrained: bool | str = False, **network: Any):
        super().__init__()
        self.name, self.classes, self.image_size, self.network = name, list(classes), image_size, network
        self.net = make_net(name, image_size, pretrained, num_classes=len(classes), **network)
        self.colours = Colours(self.net.pretrained_cfg["mean"], self.net.pretrained_cfg["std"])

    def forward(self, images: Tensor) -> Tensor:
        return self.net(self.colours(images))

    def save(self, folder: Path, weights: dict[str, Tensor] | None = None) -> None:
        """Write config.json and model.safetensors; `weights` instead of the network's own, by name."""
        folder.mkdir(parents=True, exist_ok=True)
        state = self.state_dict() if weights is None else weights
        save_file({name.removeprefix("net."): each.contiguous() for name, each in state.items()}, folder / WEIGHTS)
        config = {"model": self.name, "image_size": self.image_size, "classes": self.classes, "network": self.network}
        write_whole(folder / CONFIG, json.dumps(config, indent=1))

    @classmethod
    def load(cls, folder: Path | str) -> "Classifier":
        """The one saved in a folder or the best of a run, in evaluation mode. Raises UserError if there is none."""
        folder = find_classifier(folder)
        config = read_config(folder)
        made = cls(config["model"], config["classes"], config["image_size"], **config["network"])
        try:
            made.net.load_state_dict(load_file(folder / WEIGHTS))
        except (OSError, RuntimeError, SafetensorError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{folder / WEIGHTS} cannot be loaded ({reason}); use another checkpoint") from error
        return made.eval()


def make_encoder(name: str, image_size: int, pretrained: bool | str = False, stride: int | None = None) -> Encoder:
    """The encoder of that name, for square pictures of `image_size` pixels.

    Args:
        name: one of ENCODERS (`tinyvit_5m`, `cct_7_3x1` ...) or timm's name of a TinyViT, which may have a tag:
            `tiny_vit_21m_384.dist_in22k_ft_in1k`.
        pretrained: True for the released weights, or the folder (or run folder) of a `Classifier` of that name.
        stride: of a TinyViT's map; later stages are left out. None: all of them, 32.

    Raises UserError for an unknown name, naming the nearest, and for weights that cannot be had or do not fit.
    """
    net = make_net(known_name(name), image_size, pretrained, num_classes=0)
    if isinstance(net, cct.CompactTransformer):
        if stride is not None:
            raise UserError(f"the encoder '{name}' has one map, whose stride is fixed; leave the stride out")
        net.pool = None  # there is no use for it
        return Encoder(net, net.grid_size)
    stride = stride or STRIDES[-1]
    side = map_sides(image_size)[STRIDES.index(stride)]
    return Encoder(cut(net, stride), (side, side))


def known_name(name: str, others: Sequence[str] = ()) -> str:
    """timm's name of one of our encoders. Raises UserError if it is none, naming the nearest of them and `others`."""
    architecture = timm_name(name).split(".")[0]
    if architecture in cct.default_cfgs or (is_tinyvit(architecture) and timm.is_model(architecture)):
        return timm_name(name)
    known = [*others, *ENCODERS]
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.3) or known
    raise UserError(f"there is no image encoder '{name}'; did you mean {' or '.join(near)}?")


def make_net(name: str, image_size: int, pretrained: bool | str = False, **kwargs: Any) -> Any:
    """timm's model of that name, one of ENCODERS or any other, for square pictures of `image_size` pixels.

    Args:
        name, image_size: see above.
        pretrained: True for the weights that timm knows, or the folder (or run folder) of a `Classifier`.
        kwargs: further arguments of `timm.create_model`.

    Raises UserError for an unknown name, and for weights that cannot be had or do not fit.
    """
    name = timm_name(name)
    architecture = name.split(".")[0]
    if not timm.is_model(architecture):
        near = difflib.get_close_matches(architecture, [*ENCODERS, *timm.list_models()], n=3, cutoff=0.5) or ENCODERS
        raise UserError(f"timm has no model '{name}'; did you mean {' or '.join(near)}?")
    if isinstance(pretrained, str):
        folder = find_classifier(pretrained)
        config = read_config(folder)
        if (found := timm_name(config["model"]).split(".")[0]) != architecture:
            raise UserError(f"{folder} holds weights of '{found}', not '{architecture}'; choose that model or others")
        overlay = {"file": str(folder / WEIGHTS), "num_classes": len(config["classes"])}
        kwargs["pretrained_cfg_overlay"] = overlay
    try:
        if is_tinyvit(name):
            return make_tinyvit(name, image_size, pretrained=bool(pretrained), **kwargs)
        if timm.get_pretrained_cfg(architecture, allow_unregistered=True).fixed_input_size:
            kwargs["img_size"] = image_size
        return timm.create_model(name, pretrained=bool(pretrained), **kwargs)
    except (OSError, RuntimeError, SafetensorError) as error:
        if not pretrained:
            raise
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"the pretrained weights of '{name}' could not be loaded ({type(error).__name__}: {reason}); check the "
            "name's tag and the network, give a folder that holds them, or begin without"
        ) from error


def find_classifier(folder: Path | str) -> Path:
    """The folder with a classifier's config.json, at `folder` or in that run. Raises UserError if there is none."""
    if found := model_in(folder):
        return found
    raise UserError(f"there is no classifier at {folder}; train one: python train.py task=perception/cct")


def read_config(folder: Path) -> dict[str, Any]:
    """What a classifier's config.json says: model, image_size, classes, network. Raises UserError if it is none."""
    try:
        config = json.loads((folder / CONFIG).read_text())
        return {name: config[name] for name in ("model", "image_size", "classes", "network")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder / CONFIG} is no classifier's ({type(error).__name__}); give another folder"
        ) from error
