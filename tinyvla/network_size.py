"""Bounds on the network that a checkpoint's configuration describes, from the size of the stored weights."""

import contextlib
import threading
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

from torch import nn
from torch.nn.modules import module as hooks

from .errors import UserError
from .untrusted import check_regular, inside

WEIGHTS = "model.safetensors"
# A network may hold more than its checkpoint while it is built: layers that are dropped, tensors that are shared, a
# model of the hub before its weights are read.
_FACTOR, _SPARE_ELEMENTS, _SPARE_TENSORS = 4, 50_000_000, 10_000


def stored_size(folder: Path) -> tuple[int, int]:
    """Number of values and of tensors in the safetensors files at any depth of a checkpoint, from their headers alone.

    Raises UserError for a checkpoint without weights or with a file that is not of that format.
    """
    from safetensors import SafetensorError, safe_open

    inside(folder, WEIGHTS)
    check_regular(folder / WEIGHTS)
    elements = tensors = 0
    for file in folder.rglob("*.safetensors"):
        inside(folder, str(file.relative_to(folder)))
        check_regular(file)
        try:
            with safe_open(file, "pt") as content:
                shapes = [content.get_slice(name).get_shape() for name in content.keys()]  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise UserError(f"{file} is not a whole safetensors file ({error}); get a complete copy") from error
        elements += sum(map(prod, shapes))
        tensors += len(shapes)
    return elements, tensors


@contextlib.contextmanager
def bounded_network(folder: Path) -> Iterator[None]:
    """Stop the construction of a network that becomes much larger than a checkpoint's weights.

    Raises UserError for such a network, before the memory of its weights is touched. Bounds this thread alone.
    """
    stored, count = stored_size(folder)
    limits = (_FACTOR * stored + _SPARE_ELEMENTS, _FACTOR * count + _SPARE_TENSORS)
    thread, counts = threading.get_ident(), [0, 0]

    def add(_: nn.Module, name: str, entry: Any) -> None:
        if threading.get_ident() != thread or entry is None:
            return
        counts[0] += getattr(entry, "numel", lambda: 0)()
        counts[1] += 1
        if counts[0] > limits[0] or counts[1] > limits[1]:
            raise UserError(
                f"config.json describes a network that is far larger than the stored weights ({stored} values in "
                f"{count} tensors); get the config.json that belongs to them"
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
