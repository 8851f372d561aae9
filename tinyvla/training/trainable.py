"""The interface of the training loop to a model: a policy or a front-end."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

type Batch = dict[str, Any]  # tensors, or lists of strings


class Trainable:
    """A module, its training batches and its checkpoints. Subclasses set `module` and implement what raises here.

    All random draws of a step depend on (seed, step) only, so that a resumed run computes the same as an uninterrupted
    one: `batch` draws from its own generator, and the loop seeds torch before `module` is called.

    Attributes:
        module: called with a batch; returns a scalar loss and metrics to log, floats by name or None. Modules that are
            not trained or saved, such as a teacher, must not be submodules (put them in a list or a closure).
        measure: the validation metric that selects the best checkpoint, by its highest value.
        lower_is_better: select it by the lowest value instead.
    """

    module: nn.Module
    measure = "score"
    lower_is_better = False

    def start(self, step: int) -> None:
        """Prepare for batch number `step`; the module has the weights of that step."""

    def batch(self, step: int) -> Batch:
        """Batch of a step, on the CPU. Called in a separate thread, in the order of steps."""
        raise NotImplementedError

    def prepare(self, batch: Batch) -> Batch:
        """The module's input for a batch. Default: its tensors on the module's device."""
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
        """Trainable parameters by name that may be replaced by their running averages. Default: all."""
        return {name: p for name, p in self.module.named_parameters() if p.requires_grad}

    def phase(self) -> int:
        """Number of the training phase of the next step, if training has several phases with different losses."""
        return 0

    def loss_weight(self, batch: Batch) -> float | Tensor:
        """Weight of the loss of this process's part of a batch among the processes. Default: equal weights."""
        return 1.0

    def save(self, folder: Path, weights: dict[str, Tensor] | None = None) -> None:
        """Write the model to a folder, from which it can be loaded without this run.

        weights: tensors by name to write instead of the module's own state.
        """
        raise NotImplementedError


def step_seed(seed: int, step: int) -> int:
    """Seed of a step's random draws."""
    return seed * 1_000_003 + step


def step_generator(seed: int, step: int) -> torch.Generator:
    """Generator of the random draws of a step's batch."""
    return torch.Generator().manual_seed(step_seed(seed, step))
