"""TinyViT (arXiv 2207.10666) as timm has it, for pictures of any size.

Its attention looks at windows of 7 to 14 cells. Where a picture's map is not a multiple of that, timm pads it, and at a
robot's 96 pixels most of a window is padding. Windows that divide the map cost less and see nothing that is not there;
at 224 pixels they are the released ones, and elsewhere timm resizes the released attention biases to them.
"""

from typing import Any

import timm
import torch
from timm.models.tiny_vit import Attention
from torch import Tensor

VARIANTS = {"tinyvit_5m": "tiny_vit_5m_224", "tinyvit_11m": "tiny_vit_11m_224", "tinyvit_21m": "tiny_vit_21m_224"}
STRIDES = (4, 8, 16, 32)  # of the four stages' maps
_WINDOWS = {"224": (7, 7, 14, 7), "384": (12, 12, 24, 12), "512": (16, 16, 32, 16)}  # as released, by their resolution


def timm_name(name: str) -> str:
    """What timm calls it: `tinyvit_5m` is short for `tiny_vit_5m_224`, other names are timm's."""
    return VARIANTS.get(name, name)


def is_tinyvit(name: str) -> bool:
    """Whether it is timm's name of a TinyViT, with or without the tag of released weights."""
    return name.startswith("tiny_vit_")


def make_tinyvit(name: str, image_size: int, **kwargs: Any) -> Any:
    """timm's model for pictures of `image_size` pixels; `kwargs` are those of `timm.create_model`."""
    resolution = name.split(".")[0].rpartition("_")[2]
    windows = [window_of(side, most) for side, most in zip(map_sides(image_size), _WINDOWS[resolution], strict=True)]
    net = timm.create_model(name, window_sizes=windows, **kwargs)
    for module in net.modules():
        if isinstance(module, Attention):
            module.__class__ = _Attention
    return net


class _Attention(Attention):
    """timm's, without its memory of biases: they would be the old ones after weights are loaded, cast or traced."""

    def get_attention_biases(self, device: torch.device) -> Tensor:
        return self.attention_biases[:, self.attention_bias_idxs]


def map_sides(image_size: int) -> list[int]:
    """Sides of the four stages' maps of a picture with `image_size` pixels a side: every convolution rounds up."""
    return [-(-image_size // stride) for stride in STRIDES]


def window_of(side: int, most: int) -> int:
    """Side of the windows that cover a map's side evenly, the fewest of at most `most` cells."""
    windows = -(-side // most)
    return -(-side // windows)


def cut(net: Any, stride: int) -> Any:
    """Drop a TinyViT's classifier and the stages behind the one whose map has this stride, in place; returns it."""
    stage = STRIDES.index(stride)
    net.prune_intermediate_layers([stage])
    net.num_features = net.feature_info[stage]["num_chs"]
    return net
