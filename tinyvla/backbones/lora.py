"""Low-rank adaptation (arXiv 2106.09685) of a backbone's towers, through peft."""

from dataclasses import dataclass

from torch import nn

from ..ranges import MAX_WIDTH, check_range


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
