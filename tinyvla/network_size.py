"""Bounds on the network that a checkpoint's configuration describes, from the size of the stored weights."""

import contextlib
import threading
from collections.abc import Iterable, Iterator
from math import prod
from pathlib import Path
from typing import Any

from torch import nn
from torch.nn.modules import module as hooks

from .errors import UserError, one_line
from .untrusted import check_regular, inside

WEIGHTS = "model.safetensors"
# A network may hold more than its checkpoint while it is built: layers that are dropped, tensors that are shared, a
# model of the hub before its weights are read.
_FACTOR, _SPARE_ELEMENTS, _SPARE_TENSORS = 4, 50_000_000, 10_000


def stored_size(folder: Path, files: Iterable[Path] | None = None) -> tuple[int, int]:
    """Number of values and of tensors in a checkpoint's files, from their headers alone.

    Args:
        folder: of the checkpoint.
        files: of weights in it; of those that are not safetensors every byte counts as a value. None: all safetensors
            at any depth, model.safetensors among them.

    Raises UserError for a checkpoint without weights, with a link out of it, or with a damaged file.
    """
    from safetensors import SafetensorError, safe_open

    if files is None:
        inside(folder, WEIGHTS)
        check_regular(folder / WEIGHTS)
    elements = tensors = 0
    for file in folder.rglob("*.safetensors") if files is None else files:
        inside(folder, str(file.relative_to(folder)))
        check_regular(file)
        if file.suffix != ".safetensors":
            elements += file.stat().st_size
            continue
        try:
            with safe_open(file, "pt") as content:
                shapes = [content.get_slice(name).get_shape() for name in content.keys()]  # noqa: SIM118
        except (SafetensorError, OSError, MemoryError) as error:
            raise UserError(
                f"{file} is not a complete checkpoint file ({one_line(error)}); download it again"
            ) from error
        elements += sum(map(prod, shapes))
        tensors += len(shapes)
    return elements, tensors


def bounded_network(folder: Path, files: Iterable[Path] | None = None) -> contextlib.AbstractContextManager[None]:
    """As `bounded_size`, for a checkpoint's weights; see `stored_size`."""
    return bounded_size(*stored_size(folder, files))


@contextlib.contextmanager
def bounded_size(stored: int, count: int) -> Iterator[None]:
    """Stop the construction of a network that becomes much larger than its stored weights.

    Raises UserError for such a network, before the memory of its weights is touched. Bounds this thread alone.

    Args:
        stored: number of values in the weights.
        count: number of tensors.
    """
    limits = (_FACTOR * stored + _SPARE_ELEMENTS, _FACTOR * count + _SPARE_TENSORS)
    thread, counts = threading.get_ident(), [0, 0]

    def add(_: nn.Module, name: str, entry: Any) -> None:
        if threading.get_ident() != thread or entry is None:
            return
        counts[0] += getattr(entry, "numel", lambda: 0)()
        counts[1] += 1
        if counts[0] > limits[0] or counts[1] > limits[1]:
            raise UserError(
                f"the configuration describes a network that is far larger than the stored weights ({stored} values in "
                f"{count} tensors); get the configuration that belongs to them"
            )

    handles = [
        hooks.register_module_parameter_registration_hook(add),
        hooks.register_module_buffer_registration_hook(add),
        hooks.register_module_module_registration_hook(add),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
