"""Order of training samples: endless shuffled epochs, the same for every process and after a resumption."""

from collections.abc import Callable

import torch
from torch import Tensor


def sample_order(length: int, seed: int) -> Callable[[int, int], Tensor]:
    """Sample numbers by position in an endless stream of shuffled epochs.

    The returned function gives positions start .. start + count. It is a pure function of (length, seed, start, count),
    so a resumed run, or one of several processes, needs only its position.
    """
    epochs: dict[int, Tensor] = {}

    def permutation(epoch: int) -> Tensor:
        if epoch not in epochs:
            for old in [e for e in epochs if e < epoch - 1]:
                del epochs[old]
            generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
            epochs[epoch] = torch.randperm(length, generator=generator)
        return epochs[epoch]

    def numbers(start: int, count: int) -> Tensor:
        chunks = []
        while count > 0:
            epoch, offset = divmod(start, length)
            chunk = permutation(epoch)[offset : offset + count]
            chunks.append(chunk)
            start, count = start + len(chunk), count - len(chunk)
        return torch.cat(chunks)

    return numbers
