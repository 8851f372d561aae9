"""Post-training quantisation to integers, with a search of every layer's scales (TinySAM, arXiv 2312.13789).

Convolutions and linear layers get integer weights, a scale an output channel, and integer inputs, one scale and zero
point a layer; both symmetric in the sense of the paper but that the zero point lets a range that is not centred, such
as after GELU or ReLU6, use all of its steps (the paper gives such layers two scales instead). What lies between them
stays in floating point.
"""

import copy
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UserError

# Shares of a tensor's largest value at which its scale is tried to end, and how often weights' and inputs' scales are
# searched in turns.
CANDIDATES = (0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 1.0)
ROUNDS = 2
_CHANNELS = 64  # of the layers that show whether kernels are exact
AT_ONCE = 8  # layers whose inputs and outputs are in memory together

type Layer = nn.Linear | nn.Conv1d | nn.Conv2d | nn.ConvTranspose2d
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d)


class Quantised(nn.Module):
    """A layer that computes with integers, and gives what the float layer gives but for rounding.

    Its result is scale_input * scale_weight * (sum of integer products) + bias. The sum is computed from the very
    integers, in float32, which is exact up to 2^24 and rounds beyond.

    weight: int8, of the layer's shape. scale: (channels out,). step, zero: of the inputs; x = step * (q - zero).
    """

    weight: Tensor
    scale: Tensor
    step: Tensor
    zero: Tensor
    bias: Tensor | None

    def __init__(self, layer: Layer, bits: int, weight: Tensor, scale: Tensor, step: Tensor, zero: Tensor):
        super().__init__()
        self.kind, self.bits, self.axis = type(layer).__name__, bits, _channel_axis(layer)
        self.geometry = _geometry(layer)
        for name, value in (("weight", weight.to(torch.int8)), ("scale", scale), ("step", step), ("zero", zero)):
            self.register_buffer(name, value.detach().clone())
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach().clone())

    def forward(self, inputs: Tensor) -> Tensor:
        integers = quantise_inputs(inputs.float(), self.step, self.zero, self.bits) - self.zero
        sums = _FUNCTIONS[self.kind](integers, self.weight.float(), None, **self.geometry)
        outputs = sums * _along_channels(self.step * self.scale, self.kind, sums.ndim)
        if self.bias is not None:
            outputs = outputs + _along_channels(self.bias, self.kind, sums.ndim)
        return outputs.to(inputs.dtype)

    def extra_repr(self) -> str:
        return f"{self.kind}, {self.bits} bits, {tuple(self.weight.shape)}"


class Int8Kernel(nn.Module):
    """A `Quantised` layer with oneDNN's int8 kernels on a CPU. Its packed weights cannot be saved."""

    def __init__(self, layer: Quantised):
        super().__init__()
        self.kind, self.step, self.zero, self.bias = layer.kind, float(layer.step), int(layer.zero), layer.bias
        self.scale, self.zeros = layer.scale, torch.zeros(len(layer.scale), dtype=torch.int32)
        if self.kind == "Linear":
            self.packed = torch.ops.onednn.qlinear_prepack(layer.weight, None)
        else:
            pairs = {name: _pair(layer.geometry[name]) for name in ("stride", "padding", "dilation")}
            self.geometry = (*pairs.values(), layer.geometry["groups"])
            self.packed = torch.ops.onednn.qconv_prepack(
                layer.weight, self.scale, self.step, self.zero, *self.geometry, None
            )

    def forward(self, inputs: Tensor) -> Tensor:
        integers = torch.quantize_per_tensor(inputs.float(), self.step, self.zero, torch.quint8).int_repr()
        before = (integers, self.step, self.zero, self.packed, self.scale, self.zeros, self.bias)
        after: Any = (1.0, 0, torch.float32, "none", [], "")  # no second scale: the sums come out as float
        if self.kind == "Linear":
            return torch.ops.onednn.qlinear_pointwise(*before, *after).to(inputs.dtype)
        return torch.ops.onednn.qconv2d_pointwise(*before, *self.geometry, *after).to(inputs.dtype)


def _pair(value: int | tuple[int, ...]) -> list[int]:
    return [value, value] if isinstance(value, int) else list(value)


def _has_kernel(layer: Quantised) -> bool:
    return layer.kind == "Linear" or (layer.kind == "Conv2d" and not isinstance(layer.geometry["padding"], str))


@torch.no_grad()
def kernels_are_exact() -> bool:
    """True if the largest products add up. A CPU without VNNI adds pairs of them in 16 bits, which overflow."""
    one = torch.ones(())
    for layer, shape in ((nn.Linear(_CHANNELS, 1), (1, _CHANNELS)), (nn.Conv2d(_CHANNELS, 1, 1), (1, _CHANNELS, 1, 1))):
        quantised = Quantised(layer, 8, torch.full_like(layer.weight, 127), one.view(1), one, 0 * one)
        inputs = torch.full(shape, 255.0)
        if not torch.allclose(Int8Kernel(quantised)(inputs), quantised(inputs)):
            return False
    return True


def with_kernels(module: nn.Module) -> nn.Module:
    """A copy of a quantised module for this CPU, whose linear layers and 2-d convolutions of 8 bits run as int8.

    Without it the same integers are multiplied as float32, which is exact but saves no time.

    Raises UserError where PyTorch has been built without these kernels, or the CPU has none that are exact.
    """
    if not hasattr(torch.ops.onednn, "qlinear_pointwise") or not torch.backends.mkldnn.is_available():
        raise UserError("this PyTorch has no int8 kernels for its CPU; use the quantised module as it is")
    if not kernels_are_exact():
        raise UserError(
            "the int8 kernels of this CPU overflow, as it has no VNNI instructions; use the quantised module as it is"
        )
    result = copy.deepcopy(module)
    for name, layer in list(result.named_modules()):
        if isinstance(layer, Quantised) and layer.bits == 8 and _has_kernel(layer):
            _replace(result, name, Int8Kernel(layer))
    return result


_FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "Linear": F.linear,
    "Conv1d": F.conv1d,
    "Conv2d": F.conv2d,
    "ConvTranspose2d": F.conv_transpose2d,
}


def quantise(module: nn.Module, calibration_batches: Iterable[Any], bits: int = 8) -> nn.Module:
    """A copy of a module whose convolutions and linear layers compute in integers, in evaluation mode.

    Every layer's scales are searched for the least error of its outputs on the calibration data, squared and weighed
    by how much the module's own outputs depend on each of them (the diagonal of the Gauss-Newton matrix, which the
    squared gradients of random signed sums of the outputs estimate). Layers are judged one by one, the others in float.

    Args:
        module: left as it is. Its outputs are tensors, or tuples of them.
        calibration_batches: each the argument of a call, or a tuple or dict of several. A few with 8 samples or more
            in all are enough.
        bits: of weights and inputs, 2 to 8.

    Raises UserError for another number of bits, no batch, or no layer to quantise.
    """
    if not 2 <= bits <= 8:
        raise UserError(f"{bits} bits cannot be had; use 2 to 8")
    batches = list(calibration_batches)
    if not batches:
        raise UserError("quantisation needs calibration data to find its scales; give at least one batch")
    training = module.training
    reference = copy.deepcopy(module.eval()).requires_grad_(False)
    module.train(training)
    quantised = copy.deepcopy(reference)
    names = [name for name, _ in _layers(reference)]
    if not names:
        raise UserError(f"{type(module).__name__} has no convolution or linear layer to quantise; give another module")
    for chosen in itertools.batched(names, AT_ONCE):
        layers: dict[str, Any] = {name: reference.get_submodule(name) for name in chosen}
        for name, calls in _record(reference, layers, batches).items():
            _replace(quantised, name, _search(layers[name], calls, bits))
    return quantised


def _layers(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Layers to quantise by name. Subclasses do more than their base and stay as they are."""
    return ((name, layer) for name, layer in module.named_modules() if name and type(layer) in LAYERS)


def _replace(module: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(module.get_submodule(parent), last, layer)


type Call = tuple[Tensor, Tensor]  # a layer's inputs, and the weights of its outputs' squared errors


@torch.enable_grad()
def _record(module: nn.Module, layers: Mapping[str, nn.Module], batches: Sequence[Any]) -> dict[str, list[Call]]:
    """The calls of layers by name while the module sees the batches; those that it does not use are left out."""
    calls: dict[str, list[Call]] = {}
    for index, batch in enumerate(batches):
        leaves: list[tuple[str, Tensor, Tensor]] = []
        hooks = [layer.register_forward_hook(_leaf_adder(name, leaves)) for name, layer in layers.items()]
        try:
            results = _call(module, batch)
        finally:
            for hook in hooks:
                hook.remove()
        if not leaves:
            continue
        generator = torch.Generator().manual_seed(index)
        total = torch.stack([_signed_sum(result, generator) for result in results]).sum()
        gradients = torch.autograd.grad(total, [leaf for *_, leaf in leaves], allow_unused=True)
        for (name, inputs, leaf), gradient in zip(leaves, gradients, strict=True):
            weight = torch.ones_like(leaf) if gradient is None else gradient.square()
            calls.setdefault(name, []).append((inputs, weight.detach()))
    return calls


def _leaf_adder(name: str, leaves: list[tuple[str, Tensor, Tensor]]) -> Callable[..., Tensor]:
    """A forward hook that adds zeros to a layer's outputs, whose gradients are then the outputs'."""

    def add(_: nn.Module, inputs: tuple[Tensor, ...], outputs: Tensor) -> Tensor:
        nothing = torch.zeros_like(outputs, requires_grad=True)
        leaves.append((name, inputs[0].detach(), nothing))
        return outputs + nothing

    return add


def _call(module: nn.Module, batch: Any) -> list[Tensor]:
    """The module's outputs that are floats."""
    if isinstance(batch, dict):
        results = module(**batch)
    else:
        results = module(*batch) if isinstance(batch, tuple | list) else module(batch)
    results = [results] if isinstance(results, Tensor) else results
    return [result for result in results if isinstance(result, Tensor) and result.is_floating_point()]


def _signed_sum(outputs: Tensor, generator: torch.Generator) -> Tensor:
    """A random signed sum; every output tensor weighs the same, however many numbers it has and however large."""
    signs = torch.randint(0, 2, outputs.shape, generator=generator).to(outputs) * 2 - 1
    return (outputs * signs).sum() / (outputs.detach().std().clamp(min=1e-6) * math.sqrt(outputs.numel()))


@torch.no_grad()
def _search(layer: Layer, calls: Sequence[Call], bits: int) -> Quantised:
    """Alternate between the weights' scales, every output channel's for itself, and the inputs' step."""
    lows, highs = (torch.stack([pick(inputs) for inputs, _ in calls]) for pick in (torch.amin, torch.amax))
    low, high = lows.min().clamp(max=0), highs.max().clamp(min=0)
    largest = layer.weight.detach().transpose(0, _channel_axis(layer)).flatten(1).abs().amax(1).clamp(min=1e-8)

    def inputs_at(share: float) -> tuple[Tensor, Tensor]:
        step = ((high - low) * share / (2**bits - 1)).clamp(min=1e-8)
        return step, (-low * share / step).round()

    def make(share: Tensor, inputs_share: float) -> Quantised:
        scale = largest * share / (2 ** (bits - 1) - 1)
        return Quantised(layer, bits, quantise_weight(layer, scale, bits), scale, *inputs_at(inputs_share))

    targets = [layer(inputs) for inputs, _ in calls]

    def errors(candidate: Quantised) -> Tensor:
        """Weighted squared error per output channel."""
        total = torch.zeros_like(largest)
        for (inputs, weight), right in zip(calls, targets, strict=True):
            wrong = (candidate(inputs) - right).square() * weight
            channels = wrong.movedim(_output_axis(candidate.kind, wrong.ndim), 0)
            total += channels.flatten(1).sum(1)
        return total

    shares, inputs_share = torch.ones_like(largest), 1.0
    for _ in range(ROUNDS):
        tried = torch.stack([errors(make(torch.full_like(largest, share), inputs_share)) for share in CANDIDATES])
        shares = largest.new_tensor(CANDIDATES)[tried.argmin(0)]
        sums = [float(errors(make(shares, share)).sum()) for share in CANDIDATES]
        inputs_share = CANDIDATES[sums.index(min(sums))]
    return make(shares, inputs_share)


def quantise_inputs(inputs: Tensor, step: Tensor, zero: Tensor, bits: int) -> Tensor:
    """The integers 0 to 2^bits - 1, as floats, that stand for inputs."""
    return (inputs / step + zero).round().clamp(0, 2**bits - 1)


def quantise_weight(layer: Layer, scale: Tensor, bits: int) -> Tensor:
    """The integers, symmetric about 0, that stand for a layer's weights at a scale an output channel."""
    axis, most = _channel_axis(layer), 2 ** (bits - 1) - 1
    shape = [-1 if dimension == axis else 1 for dimension in range(layer.weight.ndim)]
    return (layer.weight.detach() / scale.view(shape)).round().clamp(-most, most)


def _channel_axis(layer: Layer) -> int:
    """Dimension of a layer's output channels in its weights."""
    if isinstance(layer, nn.ConvTranspose2d):
        if layer.groups != 1:
            raise UserError("a transposed convolution in groups cannot be quantised; use one without")
        return 1
    return 0


def _output_axis(kind: str, dimensions: int) -> int:
    return dimensions - 1 if kind == "Linear" else dimensions - {"Conv1d": 2}.get(kind, 3)


def _along_channels(values: Tensor, kind: str, dimensions: int) -> Tensor:
    """A number a channel, as it is to be multiplied with outputs."""
    return values.view([-1] + [1] * (dimensions - 1 - _output_axis(kind, dimensions)))


def _geometry(layer: Layer) -> dict[str, Any]:
    if isinstance(layer, nn.Linear):
        return {}
    if layer.padding_mode != "zeros":
        raise UserError(f"a convolution that pads with '{layer.padding_mode}' cannot be quantised; use one with zeros")
    names = ["stride", "padding", "dilation", "groups"]
    if isinstance(layer, nn.ConvTranspose2d):
        names.append("output_padding")
    return {name: getattr(layer, name) for name in names}
