"""Low-rank adaptation (arXiv 2106.09685) of a backbone's towers, through peft."""

import re
from collections import defaultdict
from collections.abc import Container, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from ..errors import UserError
from ..ranges import MAX_WIDTH, check_range

# Names of the matrices of a layer in peft's files, and in a network with LoRA, whose adapter is named `default`.
_MATRIX = re.compile(r"(.+)\.lora_([AB])\.(?:default\.)?weight")
_BASE = ".base_layer."  # between the name of a layer with LoRA and that of its own weight


@dataclass
class LoRAConfig:
    """Options of low-rank adaptation; the defaults are the released TinyVLA's.

    Args:
        r: rank of the two matrices beside every linear layer; 0 trains the whole backbone instead.
        alpha: their product is scaled by alpha / r.
        dropout: share of their inputs that is dropped in training.
    """

    r: int = 64
    alpha: int = 256
    dropout: float = 0.05

    def __post_init__(self) -> None:
        check_range(self, "r", low=0, high=MAX_WIDTH)
        check_range(self, "alpha", low=0)
        check_range(self, "dropout", low=0, high=1)


def add_lora(tower: nn.Module, config: LoRAConfig) -> None:
    """Add LoRA matrices to every linear layer of `tower`, in place, and freeze all other weights. r = 0: do nothing.

    The matrices' names contain `lora_`; the layer itself moves to `<name>.base_layer`. They start as a zero update, so
    that the tower's output does not change.
    """
    from peft import LoraConfig, inject_adapter_in_model  # seconds to import, and only LoRA needs it

    if config.r == 0:
        return
    linear = [name for name, module in tower.named_modules() if isinstance(module, nn.Linear)]
    adapter = LoraConfig(r=config.r, lora_alpha=config.alpha, lora_dropout=config.dropout, target_modules=linear)
    inject_adapter_in_model(adapter, tower)


def merge_lora(weights: Mapping[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """Weights of the network without LoRA that computes the same: W + alpha / r * B @ A for every layer, in float32.

    Args:
        weights: by name, of a network with LoRA.
        alpha: see `LoRAConfig`; r is that of the matrices.

    Raises UserError for matrices without their other half or their layer, or of other sizes.
    """
    matrices: dict[str, dict[str, Tensor]] = defaultdict(dict)
    merged = {}
    for name, tensor in weights.items():
        if match := _MATRIX.fullmatch(name):
            matrices[match[1]][match[2]] = tensor.float()
        else:
            merged[name.replace(_BASE, ".")] = tensor
    for layer, halves in matrices.items():
        weight = merged.get(f"{layer}.weight")
        if weight is None or len(halves) < 2:
            lacking = f"{layer}.weight" if weight is None else f"the other LoRA matrix of {layer}"
            raise UserError(f"the weights lack {lacking}; get all files of the checkpoint")
        if (halves["B"].shape[0], halves["A"].shape[-1]) != weight.shape or halves["A"].shape[0] != halves["B"].shape[
            1
        ]:
            raise UserError(f"the LoRA matrices of {layer} do not fit its weight; get the files that belong together")
        merged[f"{layer}.weight"] = weight.float() + alpha / len(halves["A"]) * (halves["B"] @ halves["A"])
    return merged


def name_base_layers(weights: Mapping[str, Tensor], names: Container[str]) -> dict[str, Tensor]:
    """Weights of a network without LoRA under the names that they have in one with LoRA. names: of the latter."""
    based = {name: _BASE.join(name.rsplit(".", 1)) for name in weights}
    return {based[name] if based[name] in names else name: tensor for name, tensor in weights.items()}
