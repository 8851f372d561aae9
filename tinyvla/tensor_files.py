"""Files of tensors from strangers: safetensors, and PyTorch's files without the code that they may hold."""

import argparse
import pickle
import re
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from .errors import UserError, one_line, warn_once
from .untrusted import check_regular

# What a damaged or hostile file makes the readers raise.
_FAULTS = (
    *(OSError, EOFError, RuntimeError, ValueError, KeyError, IndexError, TypeError, AttributeError, AssertionError),
    *(SafetensorError, pickle.UnpicklingError, zipfile.BadZipFile, UnicodeDecodeError),
)
_SECTIONS = ("state_dict", "model")  # of a training checkpoint, whose other sections are its optimizer and settings
# Tables that a network computes itself; older libraries stored them beside the weights.
_TABLES = re.compile(
    r"(^|\.)(rotary_emb\..*|attention\.(masked_)?bias|position_ids|attn_mask|attention_bias_idxs|pixel_(mean|std))$"
)
_NAMED = 4  # modules in a warning


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Tensors by name in a safetensors file, or in a file of torch.save: at its top, or in its section of weights.

    Raises UserError for a file that is damaged, that holds anything other than tensors by name, that names code, or
    whose tensors are much larger than the file.
    """
    check_regular(file)
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        content = load_plain(file)
    except UserError:
        raise
    except _FAULTS as error:
        raise UserError(
            f"{file} is not a complete checkpoint file ({type(error).__name__}: {one_line(error, 120)}); download it "
            "again"
        ) from error
    if isinstance(content, dict):
        content = next((content[key] for key in _SECTIONS if isinstance(content.get(key), dict)), content)
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in content.items()
    ):
        raise UserError(f"{file} does not hold tensors by name; give the file of a model's weights")
    # A view that repeats one stored value may have any size.
    if sum(tensor.nbytes for tensor in content.values()) > 4 * file.stat().st_size + (1 << 20):
        raise UserError(f"{file} describes tensors that are larger than itself; get the original file")
    return content


def load_plain(file: Path) -> Any:
    """Content of a file of torch.save: tensors and plain values, on the CPU.

    Raises UserError for a file that names code, or of compressed records, which may become any size, and otherwise as
    torch.load does.
    """
    check_regular(file)
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            if any(record.file_size > record.compress_size for record in archive.infolist()):
                raise UserError(f"{file} holds compressed records, which torch.save does not write; get the original")
    try:
        # Training scripts store their command line beside the weights: a record of plain values, without code.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "unsupported global" not in str(error).lower():
            raise
        raise UserError(f"{file} names code, not only tensors and plain values; get a file without it") from error


def warn_unused(source: Path | str, names: Iterable[str], meaning: str = "") -> None:
    """Print one line that names the stored weights for which a network has no place; nothing if there are none.

    Args:
        source: of the weights.
        names: of the stored tensors that are not used. Tables that are computed anew are not weights, and are not
            named.
        meaning: of the unused weights in this layout.
    """
    if not (unused := sorted(name for name in names if not _TABLES.search(name))):
        return
    modules = list(dict.fromkeys(name.rpartition(".")[0] or name for name in unused))
    more = f" and {len(modules) - _NAMED} more modules" if len(modules) > _NAMED else ""
    warn_once(
        f"{source}: {len(unused)} stored tensors are not used, those of {', '.join(modules[:_NAMED])}{more}"
        + (f" ({meaning})" if meaning else "")
    )
