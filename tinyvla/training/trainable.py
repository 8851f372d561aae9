"""What the training loop trains: a policy or a front-end, behind one small interface."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

type Batch = dict[str, Any]  # tensors, or lists of strings


class Trainable:
    """A module, the batches that it learns from, and how it is saved. Subclasses set `module` and fill in what raises.

    Everything random in a step comes from (seed, step) alone, or a resumed run would leave the curve: `batch` draws
    from a generator of its own, and the loop seeds torch before `module` is called.

    Attributes:
        module: called with a batch; returns a scalar loss and, to log beside it, None or floats by name. What must
            not be trained or kept with it, such as a teacher, is no part of it (hide it in a list or a closure).
        measure: which of the figures that validation gives says how good it is; the highest is the best.
    """

    module: nn.Module
    measure = "score"

    def start(self, step: int) -> None:
        """Get ready for batch number `step`; the module has the weights of that step."""

    def batch(self, step: int) -> Batch:
        """A step's batch on the CPU. Runs in a thread of its own; steps come in order."""
        raise NotImplementedError

    def prepare(self, batch: Batch) -> Batch:
        """The batch as the module takes it. Default: its tensors on the module's device."""
        device = next(self.module.parameters()).device
        return {key: value.to(device) if isinstance(value, Tensor) else value for key, value in batch.items()}

    def make_optimizer(self, lr: float, weight_decay: float) -> Optimizer:
        """Optimizer with a learning rate and weight decay. Default: AdamW, no decay of vectors such as biases."""
        trainable = [p for p in self.module.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in trainable if p.ndim > 1], "weight_decay": weight_decay},
            {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
        ]
        return AdamW([group for group in groups if group["params"]], lr=lr, fused=True)

    def averaged_parameters(self) -> dict[str, nn.Parameter]:
        """By name, the trainable parameters that may be replaced by their running averages. Default: all."""
        return {name: p for name, p in self.module.named_parameters() if p.requires_grad}

    def phase(self) -> int:
        """Which of its losses the next step is about, where training has several phases."""
        return 0

    def loss_weight(self, batch: Batch) -> float | Tensor:
        """How much the loss of this process's part of a batch counts among the others'. Default: all alike."""
        return 1.0

    def save(self, folder: Path, weights: dict[str, Tensor] | None = None) -> None:
        """Write what is trained to a folder, from which it can be loaded without this run.

        weights: what to write instead of the module's own state, by name.
        """
        raise NotImplementedError


def step_seed(seed: int, step: int) -> int:
    """What a step's random draws are seeded with."""
    return seed * 1_000_003 + step


def step_generator(seed: int, step: int) -> torch.Generator:
    """A generator for the draws of a step's batch."""
    return torch.Generator().manual_seed(step_seed(seed, step))
