"""Checkpoints of pretrained models: find one on this disk or on the model hub, and read its files."""

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

from ..errors import UserError, one_line

SAFETENSORS, PICKLED = "model*.safetensors", "pytorch_model*.bin"  # sharded checkpoints number their files


def fetch_checkpoint(name: str) -> Path:
    """Folder of a checkpoint: `name` itself if it is a folder, else the hub's model of that id, downloaded.

    Raises UserError if there is neither, or the hub cannot be reached and the model is not in its cache.
    """
    if Path(name).expanduser().is_dir():
        return Path(name).expanduser()
    try:
        folder = Path(snapshot_download(name, allow_patterns=["*.json", SAFETENSORS]))
        if not any(folder.glob(SAFETENSORS)):
            folder = Path(snapshot_download(name, allow_patterns=["*.json", PICKLED]))
    except (OSError, HfHubHTTPError, HFValidationError) as error:
        raise UserError(
            f"the model '{name}' is not a folder here and could not be downloaded from the model hub "
            f"({type(error).__name__}); check its name and the network, set backbone.pretrained to a local folder, or "
            "use backbone=nano, which needs no download"
        ) from error
    return folder


def read_json(path: Path) -> dict[str, Any]:
    """Content of a JSON file of a checkpoint. Raises UserError if it is missing or not JSON."""
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
        module: the target; it keeps its dtype.
        folder: holds safetensors files or else PyTorch's, in one piece or sharded.
        rename: a stored name -> the name in `module`, or None for a tensor that is not used.

    Raises UserError if files are cut short, tensors are missing or left over, or shapes differ.
    """
    files = sorted(folder.glob(SAFETENSORS)) or sorted(folder.glob(PICKLED))
    if not files:
        raise UserError(f"{folder} has no {SAFETENSORS} or {PICKLED}; download the checkpoint's weights again")
    state: dict[str, Tensor] = {}
    for file in files:
        for name, tensor in _read_tensors(file).items():
            if (target := rename(name)) is not None:
                state[target] = tensor
    try:
        missing, unexpected = module.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise UserError(
            f"{folder} does not fit its own config.json: {one_line(error, None)}; download the checkpoint again"
        ) from error
    for names, fault in ((missing, "lacks"), (unexpected, "has unknown")):
        if names:
            raise UserError(
                f"{folder} {fault} {len(names)} tensors, e.g. {', '.join(sorted(names)[:3])}; "
                "a file is missing, or it is not a checkpoint of this backbone: download it again or choose another"
            )


def _read_tensors(file: Path) -> dict[str, Tensor]:
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        return torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, SafetensorError, pickle.UnpicklingError) as error:
        raise UserError(
            f"{file} is not a complete checkpoint file ({type(error).__name__}); download it again"
        ) from error


class FileTokenizer:
    """Tokenizer of a checkpoint, from its tokenizer.json. Raises UserError if that is missing."""

    FILE = "tokenizer.json"

    def __init__(self, folder: Path):
        try:
            self.tokenizer = Tokenizer.from_file(str(folder / self.FILE))
        except Exception as error:  # the library raises bare Exception
            raise UserError(
                f"{folder / self.FILE} could not be read ({error}); download the checkpoint again"
            ) from error
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
