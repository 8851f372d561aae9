"""TinyViT (arXiv 2207.10666) from timm, for images of any size.

Its attention has windows of 7 to 14 cells. timm pads a map whose size is not a multiple of the window, and at a
robot's 96 pixels most of a window is padding. The windows here divide the map, which is faster and has no padding. At
224 pixels they are the released ones; for other sizes timm resizes the released attention biases.
"""

from typing import Any

import timm
import torch
from timm.models.tiny_vit import Attention
from torch import Tensor

VARIANTS = {"tinyvit_5m": "tiny_vit_5m_224", "tinyvit_11m": "tiny_vit_11m_224", "tinyvit_21m": "tiny_vit_21m_224"}
STRIDES = (4, 8, 16, 32)  # of the maps of the four stages
_WINDOWS = {"224": (7, 7, 14, 7), "384": (12, 12, 24, 12), "512": (16, 16, 32, 16)}  # released ones, by resolution


def timm_name(name: str) -> str:
    """timm's name of a network: `tinyvit_5m` is short for `tiny_vit_5m_224`; other names are returned unchanged."""
    return VARIANTS.get(name, name)


def is_tinyvit(name: str) -> bool:
    """True for timm's name of a TinyViT, with or without the tag of released weights."""
    return name.startswith("tiny_vit_")


def make_tinyvit(name: str, image_size: int, **kwargs: Any) -> Any:
    """timm's model for images of `image_size` pixels; `kwargs` are those of `timm.create_model`."""
    resolution = name.split(".")[0].rpartition("_")[2]
    windows = [window_of(side, most) for side, most in zip(map_sides(image_size), _WINDOWS[resolution], strict=True)]
    net = timm.create_model(name, window_sizes=windows, **kwargs)
    for module in net.modules():
        if isinstance(module, Attention):
            module.__class__ = _Attention
    return net


class _Attention(Attention):
    """timm's attention without its cache of biases, which is stale after weights are loaded, cast or traced."""

    def get_attention_biases(self, device: torch.device) -> Tensor:
        return self.attention_biases[:, self.attention_bias_idxs]


def map_sides(image_size: int) -> list[int]:
    """Sides of the maps of the four stages for an image of `image_size` pixels: every convolution rounds up."""
    return [-(-image_size // stride) for stride in STRIDES]


def window_of(side: int, most: int) -> int:
    """Side of the fewest windows of at most `most` cells that cover the side of a map evenly."""
    windows = -(-side // most)
    return -(-side // windows)


def cut(net: Any, stride: int) -> Any:
    """Drop the classifier of a TinyViT and the stages after the one with this stride, in place; return the network."""
    stage = STRIDES.index(stride)
    net.prune_intermediate_layers([stage])
    net.num_features = net.feature_info[stage]["num_chs"]
    return net
