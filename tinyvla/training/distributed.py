"""Several processes that compute the same as one: noise of the whole batch, and states of sharded models."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer
from torch.overrides import TorchFunctionMode


class DrawsOfWholeBatch(TorchFunctionMode):
    """Within the block a process draws noise for the whole batch and uses the rows of its own samples.

    So processes with the same seed compute together the same as one process with all their samples. A draw whose first
    dimension is not a multiple of the samples is the same in all of them.

    Args:
        samples: number of samples in this process's part of the batch.
        index, of: number of the part, and number of equal parts.
    """

    def __init__(self, samples: int, index: int, of: int):
        super().__init__()
        self.samples, self.index, self.of = samples, index, of
        self.replacements: dict[Any, Callable[..., Tensor]] = {
            torch.randn: lambda *a, **k: self._sized(torch.randn, *a, **k),
            torch.rand: lambda *a, **k: self._sized(torch.rand, *a, **k),
            torch.randint: lambda *a, **k: self._sized(partial(torch.randint, *a[:-1]), *a[-1:], **k),
            torch.randn_like: lambda x, **k: self._like(torch.randn, x, **k),
            torch.rand_like: lambda x, **k: self._like(torch.rand, x, **k),
            F.dropout: self._dropout,
        }

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.replacements.get(function, function)(*args, **(kwargs or {}))

    def _rows(self, shape: tuple[int, ...], draw: Callable[[tuple[int, ...]], Tensor]) -> Tensor:
        if not shape or shape[0] == 0 or shape[0] % self.samples:
            return draw(shape)
        rows = shape[0]
        return draw((rows * self.of, *shape[1:]))[rows * self.index : rows * (self.index + 1)]

    def _sized(self, function: Any, *size: Any, **options: Any) -> Tensor:
        shape = options.pop("size", size[0] if size and not isinstance(size[0], int) else size)
        return self._rows(tuple(shape), lambda shape: function(size=shape, **options))

    def _like(self, function: Any, like: Tensor, **options: Any) -> Tensor:
        options = {"dtype": like.dtype, "device": like.device} | {k: v for k, v in options.items() if v is not None}
        return self._rows(tuple(like.shape), lambda shape: function(shape, **options))

    def _dropout(self, x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        if not training or p == 0:
            return x
        keep = self._rows(tuple(x.shape), lambda shape: x.new_empty(shape).bernoulli_(1 - p))
        return x * keep.div_(1 - p)


def draws_of_whole_batch(accelerator: Accelerator, samples: int) -> AbstractContextManager[Any]:
    """Context of `DrawsOfWholeBatch`; without effect if one process has the whole batch."""
    if accelerator.num_processes == 1:
        return nullcontext()
    return DrawsOfWholeBatch(samples, accelerator.process_index, accelerator.num_processes)


def gather_shards(tree: Any) -> Any:
    """Nested dicts and lists with every sharded tensor (FSDP) gathered on the CPU; all processes call this."""
    if isinstance(tree, DTensor):
        return tree.full_tensor().cpu().clone()  # which may be a view of the buffer of all shards
    if isinstance(tree, dict):
        return {key: gather_shards(value) for key, value in tree.items()}
    return [gather_shards(value) for value in tree] if isinstance(tree, list) else tree


def shard_like(values: list[Any], parameters: list[Tensor]) -> list[Any]:
    """Tensors sharded as the parameters of the same shape; values of another shape stay as they are."""
    return [
        distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)
        if isinstance(parameter, DTensor) and isinstance(value, Tensor) and value.shape == parameter.shape
        else value
        for value, parameter in zip(values, parameters, strict=True)
    ]


def load_optimizer(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Load a complete state (of `gather_shards`) into an optimizer, sharded or not."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    moments = {
        index: dict(zip(values, shard_like(list(values.values()), [parameters[index]] * len(values)), strict=True))
        for index, values in state["state"].items()
    }
    optimizer.load_state_dict(state | {"state": moments})
