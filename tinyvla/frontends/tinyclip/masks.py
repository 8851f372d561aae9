"""Automatic inheritance: learned masks over heads, FFN units and channels select the weights of a smaller model.

arXiv 2309.12314, 3.2, with the hard concrete distribution of arXiv 1712.01312 and the Lagrangian of arXiv 1910.04732.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from .inherit import Selection, cut
from .model import TOWERS, ShapedClip, count_parameters, sizes_of, tower_of

# Hard concrete distribution: sharpness, and the interval that it is stretched to before it is clipped to [0, 1].
TEMPERATURE, LOW, HIGH = 2 / 3, -0.1, 1.1
_SHIFT = TEMPERATURE * math.log(-LOW / HIGH)
START = 3.0  # initial log-odds of every mask: open with probability 0.99


class MaskedClip(nn.Module):
    """A CLIP with learned masks over its heads, FFN units and channels.

    While `is_learning`, every pass in training mode draws masks between 0 and 1. Otherwise each mask is 0 or 1, and
    `compress` returns the model without the masked parts, which has the same outputs. Layer norms use the open channels
    alone.

    Args:
        clip: the model to compress; it is masked in place.
        target: share of its parameters to keep, between 0 and 1.
    """

    _is_learning: Tensor

    def __init__(self, clip: ShapedClip, target: float):
        super().__init__()
        self.clip, self.target = clip, target
        self.sizes = {name: sizes_of(clip.config, name) for name in TOWERS}
        self.total = count_parameters(clip.config, self.sizes)
        self.log_odds = nn.ParameterDict()
        for name, size in self.sizes.items():
            self.log_odds[f"{name}_width"] = torch.full((size["width"],), START)
            for layer, (heads, units) in enumerate(zip(size["heads"], size["units"], strict=True)):
                self.log_odds[f"{name}_heads_{layer}"] = torch.full((heads,), START)
                self.log_odds[f"{name}_units_{layer}"] = torch.full((units,), START)
        self.multipliers = nn.Parameter(torch.zeros(2))  # of the Lagrangian; they are maximised, see `mask_parameters`
        self.register_buffer("_is_learning", torch.tensor(True))
        self._masks: dict[str, Tensor] = {}
        for name in TOWERS:
            self._hook(name)

    @property
    def is_learning(self) -> bool:
        return bool(self._is_learning)

    def mask_parameters(self) -> tuple[list[nn.Parameter], nn.Parameter]:
        """Log-odds of the masks, which minimise the loss, and multipliers of the Lagrangian, which maximise it."""
        return list(self.log_odds.values()), self.multipliers

    def draw(self) -> None:
        """Draw the masks for the following passes."""
        if self.is_learning and self.training:
            self._masks = {name: _hard_concrete(odds) for name, odds in self.log_odds.items()}
        elif self.is_learning or not self._masks:
            self._masks = self.binary()

    def settle(self) -> None:
        """End the learning of the masks: they are 0 or 1 from now on, and `target` of the parameters is kept."""
        self._is_learning.fill_(False)
        self._masks = self.binary()

    def sparsity_loss(self, progress: float) -> Tensor:
        """The Lagrangian l1 (p - q) + l2 (p - q)^2 of the expected share p of parameters.

        progress: position of q on its way from 1 to `target`, between 0 and 1; a sudden change would damage the model.
        """
        allowed = 1 - progress * (1 - self.target)
        excess = self.expected_share() - allowed
        return self.multipliers[0] * excess + self.multipliers[1] * excess**2

    def expected_share(self) -> Tensor:
        """Expected share of the parameters that is kept, with gradients to the masks."""
        return self._share({name: torch.sigmoid(odds - _SHIFT).sum() for name, odds in self.log_odds.items()})

    @torch.no_grad()
    def binary(self) -> dict[str, Tensor]:
        """Masks of 0 and 1: open where the log-odds exceed the lowest threshold that `target` allows.

        One threshold for all groups, so that a group that matters more to the loss keeps more. Every group keeps at
        least one part.
        """

        def masks(threshold: float) -> dict[str, Tensor]:
            opened = {name: (odds > threshold).float() for name, odds in self.log_odds.items()}
            for name, odds in self.log_odds.items():
                opened[name][odds.argmax()] = 1
            return opened

        every = torch.cat([odds.flatten() for odds in self.log_odds.values()]).sort().values
        low, high = 0, len(every) - 1  # the threshold is one of the log-odds
        while low < high:
            middle = (low + high) // 2
            share = self._share({name: mask.sum() for name, mask in masks(every[middle].item()).items()})
            low, high = (low, middle) if share <= self.target else (middle + 1, high)
        return masks(every[low].item())

    def compress(self) -> ShapedClip:
        """Smaller model without the masked parts; in evaluation mode both give the same embeddings."""
        masks = self.binary() if self.is_learning or not self._masks else self._masks
        selections = {}
        for name, size in self.sizes.items():
            layers = range(len(size["heads"]))
            heads, units = (
                [masks[f"{name}_{kind}_{i}"].nonzero()[:, 0] for i in layers] for kind in ("heads", "units")
            )
            selections[name] = Selection(list(layers), masks[f"{name}_width"].nonzero()[:, 0], heads, units)
        return cut(self.clip, selections)

    def _share(self, open_units: dict[str, Tensor]) -> Tensor:
        sizes = {}
        for name, size in self.sizes.items():
            layers = range(len(size["heads"]))
            heads, units = ([open_units[f"{name}_{kind}_{i}"] for i in layers] for kind in ("heads", "units"))
            sizes[name] = {"width": open_units[f"{name}_width"], "head_dim": size["head_dim"]}
            sizes[name] |= {"heads": heads, "units": units}
        return count_parameters(self.clip.config, sizes) / self.total

    def _hook(self, name: str) -> None:
        """Multiply what a tower's layers hand on by the masks, which are looked up in every pass."""
        tower, dim = tower_of(self.clip, name), self.sizes[name]["head_dim"]

        def narrow(module: nn.Module, args: Any, output: Tensor) -> Tensor:
            return output * self._masks[f"{name}_width"]

        def norm(module: Any, args: Any, output: Tensor) -> Tensor:
            return _open_norm(args[0], module, self._masks[f"{name}_width"])

        tower.embeddings.register_forward_hook(narrow)
        for layer_norm in _norms(tower):
            layer_norm.register_forward_hook(norm)
        for i, layer in enumerate(tower.encoder.layers):
            layer.self_attn.out_proj.register_forward_pre_hook(self._gate(f"{name}_heads_{i}", dim))
            layer.mlp.fc2.register_forward_pre_hook(self._gate(f"{name}_units_{i}", 1))
            for module in (layer.self_attn.out_proj, layer.mlp.fc2):
                module.register_forward_hook(narrow)

    def _gate(self, key: str, repeats: int) -> Any:
        def gate(module: nn.Module, args: Any) -> tuple[Tensor]:
            return (args[0] * self._masks[key].repeat_interleave(repeats),)

        return gate


def _norms(tower: Any) -> Iterator[nn.LayerNorm]:
    return (module for module in tower.modules() if isinstance(module, nn.LayerNorm))


def _open_norm(values: Tensor, norm: nn.LayerNorm, mask: Tensor) -> Tensor:
    """Layer norm over the open channels alone; closed ones are zero before and after."""
    values, count = values.float(), mask.sum()
    centred = values - values.sum(-1, keepdim=True) / count
    variance = (mask * centred**2).sum(-1, keepdim=True) / count
    return ((centred * torch.rsqrt(variance + norm.eps)) * norm.weight + norm.bias) * mask


def _hard_concrete(log_odds: Tensor) -> Tensor:
    """A draw between 0 and 1, either end with a probability of its own, differentiable in the log-odds."""
    uniform = torch.rand_like(log_odds).clamp(1e-6, 1 - 1e-6)
    stretched = torch.sigmoid((uniform.logit() + log_odds) / TEMPERATURE) * (HIGH - LOW) + LOW
    return stretched.clamp(0, 1)
