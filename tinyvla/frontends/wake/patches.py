"""Patch-based inference (MCUNetV2, arXiv 2110.15352, section 3.1), and what memory and work it takes.

The first blocks of a network, whose maps are largest, are run on one patch of the picture after the other: each on as
much of it as the patch's outputs depend on, its halo. What comes out is what the whole picture gives.

Works for chains of convolutions and inverted residual blocks, as `McuNet.features` and torchvision's
`MobileNetV2.features` are.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn


class Span(NamedTuple):
    """Rows or columns of a map, from `start` up to but without `stop`."""

    start: int
    stop: int

    def clip(self, size: int) -> "Span":
        return Span(max(self.start, 0), min(self.stop, size))

    @property
    def length(self) -> int:
        return self.stop - self.start


Window = tuple[Span, Span]  # rows, columns


def run_in_patches(blocks: Sequence[nn.Module], images: Tensor, patches: int) -> Tensor:
    """What a chain of blocks in evaluation mode makes of pictures, computed on `patches` x `patches` patches in turn.

    images: (B, C, H, W). Returns what `nn.Sequential(*blocks)(images)` does.
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
    """The network's logits, (B, 1), with its first `patched` blocks run in patches. images: as it takes them."""
    blocks = list(network.features)  # type: ignore[arg-type]
    maps = run_in_patches(blocks[:patched], images, patches)
    return network.classifier(nn.Sequential(*blocks[patched:])(maps).mean((2, 3)))  # type: ignore[operator]


@dataclass(frozen=True)
class Cost:
    """What one picture takes. bytes: the most that activations take at one time, a byte each. macs: multiply-adds."""

    bytes: int
    macs: int


def cost(blocks: Sequence[nn.Module], size: tuple[int, int], patches: int = 1, patched: int = 0) -> Cost:
    """Memory and work of a chain of blocks on a picture of (height, width).

    Counted is, convolution by convolution, what it reads, what it writes and what a residual connection still needs,
    int8. As in MCUNet (arXiv 2007.10319) a depthwise one works in place but for one channel, and what a residual
    connection needs is where the sum is made. In the patch stage the stage's output counts too, which fills up patch by
    patch. Of the picture itself only the window that is being worked on counts, as it can be read from where it lies.

    Args:
        patches: into how many by how many patches the first `patched` blocks are split.
    """
    sizes = _map_sizes(blocks, size)
    most, macs = 0, 0
    if patched:
        stage = blocks[:patched]
        kept = _channels_of(stage[-1]) * sizes[patched][0] * sizes[patched][1]
        for window in _split(sizes[patched], patches):
            windows = _halos(stage, window, sizes[: patched + 1])
            for block, before, after in zip(stage, windows, windows[1:], strict=False):
                used = _block_cost(block, _extent(before), _extent(after))
                most, macs = max(most, used.bytes + kept), macs + used.macs
    for block, size_in, size_out in zip(blocks[patched:], sizes[patched:], sizes[patched + 1 :], strict=False):
        used = _block_cost(block, size_in, size_out)
        most, macs = max(most, used.bytes), macs + used.macs
    return Cost(most, macs)


def parameters(module: nn.Module) -> int:
    """How many numbers a module has learned."""
    return sum(parameter.numel() for parameter in module.parameters())


def _layers(block: nn.Module) -> list[nn.Module]:
    return [layer for layer in block.modules() if not list(layer.children())]


def _is_residual(block: nn.Module) -> bool:
    return bool(getattr(block, "use_res_connect", False))


def _channels_of(block: nn.Module) -> int:
    return next(layer.out_channels for layer in reversed(_layers(block)) if isinstance(layer, nn.Conv2d))


def _window_of(block: nn.Module) -> tuple[int, int, int]:
    """Kernel, stride and padding of the one convolution in a block that looks beyond a pixel."""
    found = [layer for layer in _layers(block) if isinstance(layer, nn.Conv2d) and layer.kernel_size != (1, 1)]
    if not found:
        return 1, 1, 0
    (layer,) = found
    return layer.kernel_size[0], layer.stride[0], int(layer.padding[0])


def _map_sizes(blocks: Sequence[nn.Module], size: tuple[int, int]) -> list[tuple[int, int]]:
    """Height and width of the picture and of the maps after each block."""
    sizes = [size]
    for block in blocks:
        kernel, stride, padding = _window_of(block)
        height, width = ((side + 2 * padding - kernel) // stride + 1 for side in sizes[-1])
        sizes.append((height, width))
    return sizes


def _split(size: tuple[int, int], patches: int) -> Iterator[Window]:
    """A map's windows, row by row; they cover it without overlap."""
    for row in range(patches):
        for column in range(patches):
            rows, columns = (
                Span(index * side // patches, (index + 1) * side // patches)
                for index, side in zip((row, column), size, strict=True)
            )
            if rows.length and columns.length:
                yield rows, columns


def _needed(span: Span, kernel: int, stride: int, padding: int) -> Span:
    """What a convolution reads to make a span of its output; beyond the map's edges too, where it is padded."""
    return Span(span.start * stride - padding, (span.stop - 1) * stride - padding + kernel)


def _halos(blocks: Sequence[nn.Module], window: Window, sizes: Sequence[tuple[int, int]]) -> list[Window]:
    """The windows of the picture and of the maps after each block that a window of the last map depends on."""
    windows = [window]
    for block, size in zip(reversed(blocks), reversed(sizes[:-1]), strict=True):
        rows, columns = (
            _needed(span, *_window_of(block)).clip(side) for span, side in zip(windows[0], size, strict=True)
        )
        windows.insert(0, (rows, columns))
    return windows


def _run_block(block: nn.Module, x: Tensor, before: Window, after: Window, size: tuple[int, int]) -> Tensor:
    """One block on a window. x: the window `before` of its input map, whose whole size is `size`."""
    kept = x
    kernel, stride, padding = _window_of(block)
    for layer in _layers(block):
        if isinstance(layer, nn.Conv2d) and layer.kernel_size != (1, 1):
            # Zeros only where the map itself ends; elsewhere the halo has what lies there.
            (top, bottom), (left, right) = (
                (-min(0, wanted.start), max(0, wanted.stop - side))
                for wanted, side in zip((_needed(span, kernel, stride, padding) for span in after), size, strict=True)
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
        x = x + kept[..., top:bottom, left:right]
    return x


def _block_cost(block: nn.Module, before: tuple[int, int], after: tuple[int, int]) -> Cost:
    """Of one block that makes maps of the size `after` from those of the size `before`."""
    area, out_area = before[0] * before[1], after[0] * after[1]
    convolutions = [layer for layer in _layers(block) if isinstance(layer, nn.Conv2d)]  # the rest is done in place
    kept = convolutions[0].in_channels * area if _is_residual(block) else 0
    most, macs = 0, 0
    for layer in convolutions:
        read = layer.in_channels * area
        if layer.kernel_size != (1, 1):
            area = out_area
        written = layer.out_channels * area
        if layer.groups == layer.in_channels == layer.out_channels:
            used = max(read, written) + area
        else:
            used = read + (0 if kept and layer is convolutions[-1] else written)
        most = max(most, used + (0 if layer is convolutions[0] else kept))
        macs += written * layer.weight[0].numel()
    return Cost(most, macs)


def _extent(window: Window) -> tuple[int, int]:
    return window[0].length, window[1].length
