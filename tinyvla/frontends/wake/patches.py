"""Patch-based inference (MCUNetV2, arXiv 2110.15352, section 3.1), and its memory and compute.

The first blocks of a network have the largest maps. They are run on one patch of the image at a time, each with its
halo: the pixels that the patch's outputs depend on. The result equals that of the whole image.

It works for chains of convolutions and inverted residual blocks, as `McuNet.features` and torchvision's
`MobileNetV2.features` are.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn


class Span(NamedTuple):
    """Rows or columns of a map, from `start` up to `stop`, half-open."""

    start: int
    stop: int

    def clip(self, size: int) -> "Span":
        return Span(max(self.start, 0), min(self.stop, size))

    @property
    def length(self) -> int:
        return self.stop - self.start


Window = tuple[Span, Span]  # rows, columns


def run_in_patches(blocks: Sequence[nn.Module], images: Tensor, patches: int) -> Tensor:
    """Output of a chain of blocks in evaluation mode, computed on `patches` x `patches` patches in turn.

    images: (B, C, H, W). The result equals `nn.Sequential(*blocks)(images)`.
    """
    sizes = _map_sizes(blocks, (images.shape[2], images.shape[3]))
    output: Tensor | None = None
    for window in _split(sizes[-1], patches):
        windows = _halos(blocks, window, sizes)
        (top, bottom), (left, right) = windows[0]
        x = images[..., top:bottom, left:right]
        for block, before, after, size in zip(blocks, windows, windows[1:], sizes, strict=False):
            x = _run_block(block, x, before, after, size)
        if output is None:
            output = x.new_empty(*x.shape[:2], *sizes[-1])
        (top, bottom), (left, right) = window
        output[..., top:bottom, left:right] = x
    assert output is not None
    return output


def classify_in_patches(network: nn.Module, images: Tensor, patches: int, patched: int) -> Tensor:
    """Logits (B, 1) of a network whose first `patched` blocks run in patches. images: as the network takes them."""
    blocks = list(network.features)  # type: ignore[arg-type]
    maps = run_in_patches(blocks[:patched], images, patches)
    return network.classifier(nn.Sequential(*blocks[patched:])(maps).mean((2, 3)))  # type: ignore[operator]


@dataclass(frozen=True)
class Cost:
    """Cost of one image. bytes: peak memory of the activations, one byte each. macs: multiply-adds."""

    bytes: int
    macs: int


def cost(blocks: Sequence[nn.Module], size: tuple[int, int], patches: int = 1, patched: int = 0) -> Cost:
    """Memory and compute of a chain of blocks on an image of (height, width), in int8.

    The memory of a convolution is its input, its output, and the input of a residual connection. As in MCUNet (arXiv
    2007.10319) a depthwise convolution works in place except for one channel, and the sum of a residual connection
    overwrites one of its terms. In the patch stage the stage's output, which is filled patch by patch, is added. Only
    the current window of the image counts, as it can be read in place.

    Args:
        blocks: chain of blocks.
        size: height and width of the image.
        patches: patches per side that the first `patched` blocks are split into.
        patched: number of blocks in the patch stage.
    """
    sizes = _map_sizes(blocks, size)
    peak, macs = 0, 0
    if patched:
        stage = blocks[:patched]
        output = _channels_of(stage[-1]) * sizes[patched][0] * sizes[patched][1]
        for window in _split(sizes[patched], patches):
            windows = _halos(stage, window, sizes[: patched + 1])
            for block, before, after in zip(stage, windows, windows[1:], strict=False):
                used = _block_cost(block, _extent(before), _extent(after))
                peak, macs = max(peak, used.bytes + output), macs + used.macs
    for block, size_in, size_out in zip(blocks[patched:], sizes[patched:], sizes[patched + 1 :], strict=False):
        used = _block_cost(block, size_in, size_out)
        peak, macs = max(peak, used.bytes), macs + used.macs
    return Cost(peak, macs)


def parameters(module: nn.Module) -> int:
    """Number of parameters of a module."""
    return sum(parameter.numel() for parameter in module.parameters())


def _layers(block: nn.Module) -> list[nn.Module]:
    return [layer for layer in block.modules() if not list(layer.children())]


def _is_residual(block: nn.Module) -> bool:
    return bool(getattr(block, "use_res_connect", False))


def _channels_of(block: nn.Module) -> int:
    return next(layer.out_channels for layer in reversed(_layers(block)) if isinstance(layer, nn.Conv2d))


def _window_of(block: nn.Module) -> tuple[int, int, int]:
    """Kernel, stride and padding of the only convolution in a block with a kernel larger than 1; (1, 1, 0) without."""
    spatial = [layer for layer in _layers(block) if isinstance(layer, nn.Conv2d) and layer.kernel_size != (1, 1)]
    if not spatial:
        return 1, 1, 0
    (layer,) = spatial
    return layer.kernel_size[0], layer.stride[0], int(layer.padding[0])


def _map_sizes(blocks: Sequence[nn.Module], size: tuple[int, int]) -> list[tuple[int, int]]:
    """Height and width of the image and of the map after each block."""
    sizes = [size]
    for block in blocks:
        kernel, stride, padding = _window_of(block)
        height, width = ((side + 2 * padding - kernel) // stride + 1 for side in sizes[-1])
        sizes.append((height, width))
    return sizes


def _split(size: tuple[int, int], patches: int) -> Iterator[Window]:
    """Windows that cover a map without overlap, row by row."""
    for row in range(patches):
        for column in range(patches):
            rows, columns = (
                Span(index * side // patches, (index + 1) * side // patches)
                for index, side in zip((row, column), size, strict=True)
            )
            if rows.length and columns.length:
                yield rows, columns


def _needed(span: Span, kernel: int, stride: int, padding: int) -> Span:
    """Input span of a convolution for a span of its output; it may reach beyond the map, into the padding."""
    return Span(span.start * stride - padding, (span.stop - 1) * stride - padding + kernel)


def _halos(blocks: Sequence[nn.Module], window: Window, sizes: Sequence[tuple[int, int]]) -> list[Window]:
    """Windows of the image and of the map after each block that a window of the last map depends on."""
    windows = [window]
    for block, size in zip(reversed(blocks), reversed(sizes[:-1]), strict=True):
        rows, columns = (
            _needed(span, *_window_of(block)).clip(side) for span, side in zip(windows[0], size, strict=True)
        )
        windows.insert(0, (rows, columns))
    return windows


def _run_block(block: nn.Module, x: Tensor, before: Window, after: Window, size: tuple[int, int]) -> Tensor:
    """Output window of one block. x: the window `before` of its input map, whose full size is `size`."""
    skipped = x
    kernel, stride, padding = _window_of(block)
    for layer in _layers(block):
        if isinstance(layer, nn.Conv2d) and layer.kernel_size != (1, 1):
            # Zeros only at the edge of the map; elsewhere the halo holds the neighbours.
            (top, bottom), (left, right) = (
                (-min(0, needed.start), max(0, needed.stop - side))
                for needed, side in zip((_needed(span, kernel, stride, padding) for span in after), size, strict=True)
            )
            x = F.conv2d(
                F.pad(x, (left, right, top, bottom)), layer.weight, layer.bias, layer.stride, groups=layer.groups
            )
        else:
            x = layer(x)
    if _is_residual(block):
        (top, bottom), (left, right) = (
            (inner.start - outer.start, inner.stop - outer.start) for inner, outer in zip(after, before, strict=True)
        )
        x = x + skipped[..., top:bottom, left:right]
    return x


def _block_cost(block: nn.Module, before: tuple[int, int], after: tuple[int, int]) -> Cost:
    """Cost of one block, from maps of the size `before` to maps of the size `after`."""
    area, out_area = before[0] * before[1], after[0] * after[1]
    convolutions = [layer for layer in _layers(block) if isinstance(layer, nn.Conv2d)]  # other layers work in place
    skipped = convolutions[0].in_channels * area if _is_residual(block) else 0
    peak, macs = 0, 0
    for layer in convolutions:
        read = layer.in_channels * area
        if layer.kernel_size != (1, 1):
            area = out_area
        written = layer.out_channels * area
        if layer.groups == layer.in_channels == layer.out_channels:
            used = max(read, written) + area
        else:
            used = read + (0 if skipped and layer is convolutions[-1] else written)
        peak = max(peak, used + (0 if layer is convolutions[0] else skipped))
        macs += written * layer.weight[0].numel()
    return Cost(peak, macs)


def _extent(window: Window) -> tuple[int, int]:
    return window[0].length, window[1].length
