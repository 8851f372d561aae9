"""Image encoders by name, for policies: networks of the front-ends' folders without their classifier."""

from collections.abc import Sequence
from typing import Any

import timm
from torch import Tensor, nn

from ..errors import UserError, did_you_mean, warn_once
from ..frontends.cct.model import CompactTransformer, default_cfgs
from ..frontends.classifier import NETWORKS, Normalise, make_network
from ..frontends.tinyvit.model import STRIDES, cut, is_tinyvit, map_sides, timm_name

ENCODERS = NETWORKS


class Encoder(nn.Module):
    """Image encoder without a classifier: images to one feature map.

    Attributes:
        num_features: channels of the map.
        map_size: height and width of the map.
    """

    def __init__(self, net: Any, map_size: tuple[int, int]):
        super().__init__()
        self.net = net
        self.normalise = Normalise(self.net.pretrained_cfg["mean"], self.net.pretrained_cfg["std"])
        self.num_features: int = self.net.num_features
        self.map_size = map_size

    def forward_map(self, images: Tensor) -> Tensor:
        """Features (B, num_features, h, w) of images (B, 3, H, W), float in [0, 1]."""
        features = self.net.forward_features(self.normalise(images))
        if features.ndim == 3:  # tokens
            features = features[:, self.net.num_prefix_tokens :].transpose(1, 2).unflatten(2, self.map_size)
        return features

    forward = forward_map


def make_encoder(name: str, image_size: int, pretrained: bool | str = False, stride: int | None = None) -> Encoder:
    """Encoder for square images.

    Args:
        name: one of ENCODERS (`tinyvit_5m`, `cct_7_3x1` ...) or timm's name of a TinyViT, which may have a tag of
            released weights: `tiny_vit_21m_384.dist_in22k_ft_in1k`.
        image_size: side in pixels of the images.
        pretrained: True for the released weights, or the folder (or run folder) of a `Classifier` of that name.
        stride: of a TinyViT's map; later stages are dropped. None: all stages, 32.

    Raises UserError for an unknown name, with the nearest ones, and for weights that cannot be loaded or do not fit.
    """
    net = make_network(known_name(name), image_size, pretrained, num_classes=0)
    if isinstance(net, CompactTransformer):
        if stride is not None:
            raise UserError(f"the encoder '{name}' has one map, whose stride is fixed; leave the stride out")
        net.pool = None  # not used
        return Encoder(net, net.grid_size)
    stride = stride or STRIDES[-1]
    if pretrained and stride < STRIDES[-1]:
        source = pretrained if isinstance(pretrained, str) else name
        warn_once(f"{source}: its stages after stride {stride} are not used")
    side = map_sides(image_size)[STRIDES.index(stride)]
    return Encoder(cut(net, stride), (side, side))


def known_name(name: str, extra: Sequence[str] = ()) -> str:
    """timm's name of an image encoder. Raises UserError for an unknown name, with the nearest of them and `extra`."""
    architecture = timm_name(name).split(".")[0]
    if architecture in default_cfgs or (is_tinyvit(architecture) and timm.is_model(architecture)):
        return timm_name(name)
    raise UserError(f"there is no image encoder '{name}'; {did_you_mean(name, [*extra, *ENCODERS], cutoff=0.3)}")
