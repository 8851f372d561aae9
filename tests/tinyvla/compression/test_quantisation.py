"""Quantised layers compute what integers give, and the search finds scales that cost little."""

import pytest
import torch
from torch import nn

from tinyvla.compression.quantisation import Int8Kernel, Quantised, kernels_are_exact, quantise, with_kernels
from tinyvla.errors import UserError


class Net(nn.Module):
    """One of everything: strided, depthwise and transposed convolutions, linear layers, GELU and two outputs."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding="same", groups=8, bias=False)
        self.up = nn.ConvTranspose2d(8, 6, 2, stride=2)
        self.one = nn.Linear(6, 16)
        self.two = nn.Linear(16, 4)
        self.unused = nn.Linear(3, 3)

    def forward(self, images):
        maps = self.up(nn.functional.relu6(self.depthwise(nn.functional.gelu(self.stem(images)))))
        hidden = nn.functional.gelu(self.one(maps.movedim(1, -1)))
        return self.two(hidden), maps.mean((2, 3))


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net().train()


@pytest.fixture
def batches():
    return [torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(seed)) for seed in range(2)]


def error(one, other):
    return float(
        sum((a - b).square().sum() for a, b in zip(one, other, strict=True)) / sum(b.square().sum() for b in other)
    )


@torch.no_grad()
def test_little_is_lost_and_less_with_more_bits(net, batches):
    fresh = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(9))
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    expected = net.eval()(fresh)
    net.train()
    errors = [error(quantise(net, batches, bits)(fresh), expected) for bits in (8, 6, 4)]
    assert errors[0] < 1e-3
    assert errors[0] < errors[1] < errors[2]
    assert net.training  # the module itself is as it was
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert all(parameter.requires_grad for parameter in net.parameters())


def test_what_is_quantised(net, batches):
    quantised = quantise(net, batches)
    kinds = {name: type(child) for name, child in quantised.named_children()}
    assert kinds == dict.fromkeys(["stem", "depthwise", "up", "one", "two"], Quantised) | {"unused": nn.Linear}
    assert quantised.stem.weight.dtype == torch.int8
    assert quantised.stem.scale.shape == (8,)
    assert quantised.up.scale.shape == (6,)
    assert not quantised.training


@torch.no_grad()
@pytest.mark.parametrize("name", ["stem", "depthwise", "up", "one", "two"])
def test_arithmetic_is_that_of_integers(net, batches, name):
    """The sums of products, in 64-bit integers."""
    layer = getattr(quantise(net, batches), name)
    inputs = (
        torch.randn(2, 16, 16, layer.weight.shape[1])
        if layer.kind == "Linear"
        else torch.randn(2, 8 if name != "stem" else 3, 16, 16)
    )
    integers = (inputs / layer.step + layer.zero).round().clamp(0, 255).long() - layer.zero.long()
    function = {
        "Linear": nn.functional.linear,
        "Conv2d": nn.functional.conv2d,
        "ConvTranspose2d": nn.functional.conv_transpose2d,
    }[layer.kind]
    sums = function(integers.double(), layer.weight.double(), **layer.geometry)
    shape = (-1,) if layer.kind == "Linear" else (-1, 1, 1)
    expected = sums * (layer.step * layer.scale).double().view(shape)
    expected = expected if layer.bias is None else expected + layer.bias.double().view(shape)
    torch.testing.assert_close(layer(inputs), expected.float(), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_search_beats_the_largest_values(net, batches, monkeypatch):
    """With outliers in few bits, scales that clip them are better than scales that hold them."""
    net.one.weight[3, 2] = 5.0
    for batch in batches:
        batch[0, 0, 0, 0] = 60.0
    expected = [net.eval()(batch) for batch in batches]
    searched_errors = [
        error(quantise(net, batches, bits=4)(batch), right) for batch, right in zip(batches, expected, strict=True)
    ]
    monkeypatch.setattr("tinyvla.compression.quantisation.CANDIDATES", (1.0,))
    plain_errors = [
        error(quantise(net, batches, bits=4)(batch), right) for batch, right in zip(batches, expected, strict=True)
    ]
    assert sum(searched_errors) < 0.9 * sum(plain_errors)


def test_saves_and_calls(net, batches, tmp_path):
    one, other = quantise(net, batches), quantise(Net(), batches)
    torch.save(one.state_dict(), tmp_path / "weights")
    other.load_state_dict(torch.load(tmp_path / "weights", weights_only=True))
    assert error(other(batches[0]), one(batches[0])) == 0
    by_name = quantise(net, [{"images": batch} for batch in batches])
    as_arguments = quantise(net, [(batch,) for batch in batches])
    assert error(by_name(batches[0]), as_arguments(batches[0])) == 0


def test_mistakes(net, batches):
    with pytest.raises(UserError, match="2 to 8"):
        quantise(net, batches, bits=16)
    with pytest.raises(UserError, match="at least one batch"):
        quantise(net, [])
    with pytest.raises(UserError, match="no convolution or linear layer"):
        quantise(nn.Sequential(nn.ReLU()), batches)
    grouped = nn.Sequential(nn.ConvTranspose2d(4, 4, 2, groups=2))
    with pytest.raises(UserError, match="in groups"):
        quantise(grouped, [torch.zeros(1, 4, 8, 8)])


def test_kernels_that_overflow_are_refused(net, batches, monkeypatch):
    """As those of a CPU without VNNI, which add pairs of products in 16 bits."""
    monkeypatch.setattr(Int8Kernel, "forward", lambda layer, inputs: torch.full((1, 1), 2.0**15 - 1))
    assert not kernels_are_exact()
    with pytest.raises(UserError, match=r"overflow.*use the quantised module as it is"):
        with_kernels(quantise(net, batches))


@pytest.mark.skipif(not kernels_are_exact(), reason="the int8 kernels of this CPU overflow")
@torch.no_grad()
def test_kernels_compute_the_same(net, batches):
    quantised = quantise(net, batches)
    fast = with_kernels(quantised)
    assert {name for name, child in fast.named_children() if isinstance(child, Int8Kernel)} == {"stem", "one", "two"}
    for name, shape in (("stem", (2, 3, 16, 16)), ("one", (2, 5, 6)), ("two", (2, 5, 5, 16))):
        inputs = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        expected = getattr(quantised, name)(inputs)
        # An input in the middle of two steps may be rounded the other way.
        torch.testing.assert_close(
            getattr(fast, name)(inputs), expected, atol=0.02 * float(expected.abs().max()), rtol=0
        )
        assert (getattr(fast, name)(inputs) - expected).abs().mean() < 1e-4
    assert error(fast(batches[0]), quantised(batches[0])) < 1e-4
    assert isinstance(quantised.stem, Quantised)
