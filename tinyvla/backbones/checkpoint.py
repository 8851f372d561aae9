"""Checkpoints of pretrained models: finding one here or on the model hub, and reading its files."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor, nn

from ..errors import UserError

SAFETENSORS, PICKLED = "model*.safetensors", "pytorch_model*.bin"  # sharded checkpoints number their files


def find_checkpoint(name: str) -> Path:
    """The folder of a checkpoint: `name` itself if it is a folder, else what the model hub holds under that id.

    Raises UserError if it is neither, or the hub cannot be reached and has not been read before.
    """
    if Path(name).expanduser().is_dir():
        return Path(name).expanduser()
    try:
        folder = Path(snapshot_download(name, allow_patterns=["*.json", SAFETENSORS]))
        if not any(folder.glob(SAFETENSORS)):
            folder = Path(snapshot_download(name, allow_patterns=["*.json", PICKLED]))
    except (OSError, HfHubHTTPError, HFValidationError) as error:
        raise UserError(
            f"the model '{name}' is no folder here and could not be fetched from the model hub "
            f"({type(error).__name__}); check its name and the network, set backbone.pretrained to a local folder, or "
            "use backbone=nano, which needs no download"
        ) from error
    return folder


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file of a checkpoint. Raises UserError if it is missing or no JSON."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} could not be read ({type(error).__name__}); "
            "set backbone.pretrained to a complete checkpoint folder or a hub id"
        ) from error


def load_weights(module: nn.Module, folder: Path, rename: Callable[[str], str | None]) -> None:
    """Copy a checkpoint's tensors into `module`.

    Args:
        module: takes them, in its own dtype.
        folder: holds safetensors files or, failing that, PyTorch ones; in one piece or sharded.
        rename: a stored name -> the name in `module`, or None for a tensor that it has no use for.

    Raises UserError if files are cut short, tensors are missing or left over, or shapes differ.
    """
    files = sorted(folder.glob(SAFETENSORS)) or sorted(folder.glob(PICKLED))
    if not files:
        raise UserError(f"{folder} has no {SAFETENSORS} or {PICKLED}; fetch the checkpoint's weights again")
    state: dict[str, Tensor] = {}
    for file in files:
        for name, tensor in _read_tensors(file).items():
            if (target := rename(name)) is not None:
                state[target] = tensor
    try:
        missing, unexpected = module.load_state_dict(state, strict=False)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{folder} does not fit its own config.json: {reason}; fetch the checkpoint again") from error
    for names, what in ((missing, "lacks"), (unexpected, "has unknown")):
        if names:
            raise UserError(
                f"{folder} {what} {len(names)} tensors, e.g. {', '.join(sorted(names)[:3])}; "
                "a file of it is missing, or it is no checkpoint of this backbone: fetch it again or choose another"
            )


def _read_tensors(file: Path) -> dict[str, Tensor]:
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        return torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, SafetensorError, pickle.UnpicklingError) as error:
        raise UserError(f"{file} is no whole checkpoint file ({type(error).__name__}); fetch it again") from error


class FileTokenizer:
    """A checkpoint's own tokenizer, from its tokenizer.json. Raises UserError if that is missing."""

    FILE = "tokenizer.json"

    def __init__(self, folder: Path):
        try:
            self.tokenizer = Tokenizer.from_file(str(folder / self.FILE))
        except Exception as error:  # the library raises bare Exception
            raise UserError(f"{folder / self.FILE} could not be read ({error}); fetch the checkpoint again") from error
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()

    def __call__(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """Token ids (B, L) long and mask (B, L) bool, padded on the right to the longest text of the batch."""
        rows = [encoding.ids for encoding in self.tokenizer.encode_batch(texts, add_special_tokens=False)]
        lengths = torch.tensor([len(row) for row in rows])
        mask = torch.arange(int(lengths.max())) < lengths.unsqueeze(1)
        ids = torch.zeros(mask.shape, dtype=torch.long)
        ids[mask] = torch.tensor([token for row in rows for token in row])
        return ids, mask

    def save(self, folder: Path) -> None:
        """Write tokenizer.json into `folder`."""
        self.tokenizer.save(str(folder / self.FILE))
