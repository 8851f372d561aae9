"""Automatic inheritance: masks over heads, FFN units and channels learn what a smaller model keeps.

arXiv 2309.12314, 3.2, with the hard concrete distribution of arXiv 1712.01312 and the Lagrangian of arXiv 1910.04732.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from .inherit import Kept, cut
from .model import TOWERS, ShapedClip, count_parameters, sizes_of, tower_of

# Of a hard concrete variable: how sharp it is, and the interval that it is stretched to before it is cut to [0, 1].
TEMPERATURE, LOW, HIGH = 2 / 3, -0.1, 1.1
_SHIFT = TEMPERATURE * math.log(-LOW / HIGH)
START = 3.0  # log-odds that every mask begins with: 0.99 of being open


class MaskedClip(nn.Module):
    """A CLIP whose heads, FFN units and channels can each be masked, and the masks that learn which ones may go.

    While `learning`, every pass in training mode draws masks between 0 and 1; otherwise each is 0 or 1, and `compress`
    gives the model without what is masked, whose outputs are the same. Layer norms count open channels alone.

    Args:
        clip: the model to thin out; it is masked in place.
        target: share of its parameters that is to stay, between 0 and 1.
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
        self.multipliers = nn.Parameter(torch.zeros(2))  # of the Lagrangian; they ascend, see `mask_parameters`
        self.register_buffer("_is_learning", torch.tensor(True))
        self._masks: dict[str, Tensor] = {}
        for name in TOWERS:
            self._hook(name)

    @property
    def is_learning(self) -> bool:
        return bool(self._is_learning)

    def mask_parameters(self) -> tuple[list[nn.Parameter], nn.Parameter]:
        """The masks' log-odds, which descend the loss, and the Lagrangian's multipliers, which ascend it."""
        return list(self.log_odds.values()), self.multipliers

    def draw(self) -> None:
        """Set the masks of the following passes."""
        if self.is_learning and self.training:
            self._masks = {name: _hard_concrete(odds) for name, odds in self.log_odds.items()}
        elif self.is_learning or not self._masks:
            self._masks = self.binary()

    def settle(self) -> None:
        """End the masks' learning: from now on they are 0 or 1, and `target` of the parameters stays."""
        self._is_learning.fill_(False)
        self._masks = self.binary()

    def sparsity_loss(self, progress: float) -> Tensor:
        """The Lagrangian l1 (p - q) + l2 (p - q)^2 of the expected share p of parameters.

        progress: how far the aim q has gone from 1 to `target`, between 0 and 1; a sudden aim would tear holes.
        """
        aim = 1 - progress * (1 - self.target)
        excess = self.expected_share() - aim
        return self.multipliers[0] * excess + self.multipliers[1] * excess**2

    def expected_share(self) -> Tensor:
        """Parameters that are expected to stay, as a share of all, with gradients to the masks."""
        return self._share({name: torch.sigmoid(odds - _SHIFT).sum() for name, odds in self.log_odds.items()})

    @torch.no_grad()
    def binary(self) -> dict[str, Tensor]:
        """Masks of 0 and 1: those stay open whose log-odds lie above the lowest bar that `target` allows.

        One bar for all, so that a group which the loss holds dear keeps more; of each group one stays in any case.
        """

        def masks(bar: float) -> dict[str, Tensor]:
            opened = {name: (odds > bar).float() for name, odds in self.log_odds.items()}
            for name, odds in self.log_odds.items():
                opened[name][odds.argmax()] = 1
            return opened

        every = torch.cat([odds.flatten() for odds in self.log_odds.values()]).sort().values
        low, high = 0, len(every) - 1  # the bar is one of the log-odds; nothing lies above the last
        while low < high:
            middle = (low + high) // 2
            share = self._share({name: mask.sum() for name, mask in masks(every[middle].item()).items()})
            low, high = (low, middle) if share <= self.target else (middle + 1, high)
        return masks(every[low].item())

    def compress(self) -> ShapedClip:
        """The smaller model that the masks leave; in evaluation mode both give the same embeddings."""
        masks = self.binary() if self.is_learning or not self._masks else self._masks
        kept = {}
        for name, size in self.sizes.items():
            layers = range(len(size["heads"]))
            heads, units = (
                [masks[f"{name}_{part}_{i}"].nonzero()[:, 0] for i in layers] for part in ("heads", "units")
            )
            kept[name] = Kept(list(layers), masks[f"{name}_width"].nonzero()[:, 0], heads, units)
        return cut(self.clip, kept)

    def _share(self, open_units: dict[str, Tensor]) -> Tensor:
        sizes = {}
        for name, size in self.sizes.items():
            layers = range(len(size["heads"]))
            heads, units = ([open_units[f"{name}_{part}_{i}"] for i in layers] for part in ("heads", "units"))
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
        for each in _norms(tower):
            each.register_forward_hook(norm)
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
