"""Networks for person detection: MobileNetV2, and one for microcontrollers."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.mobilenetv2 import MobileNetV2
from torchvision.ops.misc import Conv2dNormActivation

from ...errors import UserError

SIZES = (48, 224)  # side in pixels, smallest and largest
WIDTHS = (0.1, 1.0)

# Blocks of `McuNet` at width 1: expansion, channels, kernel, stride.
_PATCHED = ((1, 8, 3, 1), (3, 16, 3, 2), (3, 16, 3, 1), (3, 24, 3, 2))
_WHOLE = (
    *((4, 24, 5, 1),),
    *((4, 40, 5, 2), (5, 40, 5, 1), (5, 40, 5, 1)),
    *((5, 48, 5, 1), (5, 48, 5, 1)),
    *((5, 88, 7, 2), (5, 88, 7, 1)),
)
_STEM, _HEAD = 16, 160  # channels


class Inverted(nn.Module):
    """MobileNetV2's inverted residual block (arXiv 1801.04381, figure 3b) with a kernel of any odd size."""

    def __init__(self, inside: int, outside: int, expansion: int, kernel: int, stride: int):
        super().__init__()
        hidden = inside * expansion
        widen = [Conv2dNormActivation(inside, hidden, 1, activation_layer=nn.ReLU6)] if expansion > 1 else []
        self.conv = nn.Sequential(
            *widen,
            Conv2dNormActivation(hidden, hidden, kernel, stride, groups=hidden, activation_layer=nn.ReLU6),
            nn.Conv2d(hidden, outside, 1, bias=False),
            nn.BatchNorm2d(outside),
        )
        self.use_res_connect = stride == 1 and inside == outside

    def forward(self, x: Tensor) -> Tensor:
        """(B, inside, H, W) -> (B, outside, H / stride, W / stride)."""
        return x + self.conv(x) if self.use_res_connect else self.conv(x)


class McuNet(nn.Module):
    """Person detector for a microcontroller, modelled on MCUNetV2 (arXiv 2110.15352).

    Only the first blocks have large maps, and they can be run patch by patch (`patches.py`). As in section 3.2 these
    blocks are few and have small kernels, so that patches overlap little; later blocks restore the receptive field with
    kernels of 5 and 7.

    features: the blocks in order; the first `patched` are the patch stage.
    """

    patched = 1 + len(_PATCHED)

    def __init__(self, width: float = 1.0):
        super().__init__()
        inside = _channels(_STEM, width)
        blocks: list[nn.Module] = [Conv2dNormActivation(3, inside, 3, 2, activation_layer=nn.ReLU6)]
        for expansion, channels, kernel, stride in (*_PATCHED, *_WHOLE):
            outside = _channels(channels, width)
            blocks.append(Inverted(inside, outside, expansion, kernel, stride))
            inside = outside
        blocks.append(Conv2dNormActivation(inside, _HEAD, 1, activation_layer=nn.ReLU6))
        self.features = nn.Sequential(*blocks)
        self.classifier = nn.Sequential(nn.Dropout(0.1), nn.Linear(_HEAD, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, 1)."""
        return self.classifier(self.features(x).mean((2, 3)))


def _mobilenet_v2(width: float) -> MobileNetV2:
    return MobileNetV2(num_classes=1, width_mult=width)


NETWORKS: dict[str, Callable[[float], nn.Module]] = {"mcunet": McuNet, "mobilenet_v2": _mobilenet_v2}


def check_network(name: str, width: float) -> None:
    """Raise UserError for an unknown network, or a width out of range."""
    if name not in NETWORKS:
        raise UserError(f"network={name} does not exist; choose {' or '.join(NETWORKS)}")
    if not WIDTHS[0] <= width <= WIDTHS[1]:
        raise UserError(f"width={width:g} is out of range; give {WIDTHS[0]:g} to {WIDTHS[1]:g}")


def make_network(name: str, width: float = 1.0) -> nn.Module:
    """New network: normalised images (B, 3, S, S) to logits (B, 1).

    Args:
        name: one of NETWORKS.
        width: share of channels, rounded to multiples of 8, in every layer but the last (as in the paper's Keras
            model).

    Raises UserError for an unknown name or a width out of range.
    """
    check_network(name, width)
    return NETWORKS[name](width).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def prepare(images: Tensor, size: int) -> Tensor:
    """Input of the networks: images (B, 3, H, W), uint8 or float in [0, 1], to (B, 3, size, size) in [-1, 1].

    The whole image is resized to the square, so that a person at its edge is not cut away.
    """
    values = images.float() / 255 if images.dtype == torch.uint8 else images
    if values.shape[-2:] != (size, size):
        values = F.interpolate(values, (size, size), mode="bilinear", antialias=True, align_corners=False)
    return (values * 2 - 1).contiguous(memory_format=torch.channels_last)  # fastest for depthwise convolutions on a CPU


def _channels(full: int, width: float) -> int:
    """Share of `full` channels, a multiple of 8 and at least 8."""
    return max(8, int(full * width + 4) // 8 * 8)
