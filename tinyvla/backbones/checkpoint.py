"""Checkpoints of pretrained models: find one on this disk or on the model hub, and read its files."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from tokenizers import Tokenizer
from torch import Tensor, nn

from ..errors import UserError, one_line
from ..hub_files import AUTHORS_HINT
from ..tensor_files import read_tensors, warn_unused
from ..untrusted import MAX_JSON_BYTES, check_links, check_regular, read_json_object

SAFETENSORS, PICKLED = "model*.safetensors", "pytorch_model*.bin"  # sharded checkpoints number their files


def fetch_checkpoint(name: str) -> Path:
    """Folder of a checkpoint: `name` itself if it is a folder, else the hub's model of that id, downloaded.

    Raises UserError if there is neither, or the hub cannot be reached and the model is not in its cache.
    """
    if (folder := Path(name).expanduser()).is_dir():
        check_links(folder)
        return folder
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
        return read_json_object(path)
    except UserError as error:
        raise UserError(
            f"{path} could not be read ({one_line(error)}); "
            "set backbone.pretrained to a complete checkpoint folder or a hub id"
        ) from error


def weight_files(folder: Path) -> list[Path]:
    """Files of a checkpoint's weights. Raises UserError if there are none."""
    if not (files := sorted(folder.glob(SAFETENSORS)) or sorted(folder.glob(PICKLED))):
        if (folder / "adapter_config.json").is_file():
            raise UserError(f"{folder} holds LoRA matrices without their network; {AUTHORS_HINT}")
        raise UserError(f"{folder} has no {SAFETENSORS} or {PICKLED}; download the checkpoint's weights again")
    return files


def read_colours(folder: Path) -> tuple[list[float], list[float]] | None:
    """Mean and standard deviation per channel in a checkpoint's preprocessor_config.json, None without that file."""
    if not (file := folder / "preprocessor_config.json").is_file():
        return None
    content = read_json(file)
    mean, std = content.get("image_mean", []), content.get("image_std", [])
    for values in (mean, std):
        if not isinstance(values, list) or len(values) != 3 or not all(type(v) in (int, float) for v in values):
            raise UserError(f"{file} lacks image_mean or image_std, three numbers each; download the checkpoint again")
    if not all(-10 <= value <= 10 for value in [*mean, *std]) or min(std) <= 0:
        raise UserError(f"{file} has values of image_mean or image_std that are out of range; download it again")
    return mean, std


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Tensors by name in a checkpoint's files: safetensors or else PyTorch's, in one piece or sharded.

    Raises UserError if there are no files, or they are cut short.
    """
    stored: dict[str, Tensor] = {}
    for file in weight_files(folder):
        stored |= read_tensors(file)
    return stored


def place_weights(
    module: nn.Module,
    stored: Mapping[str, Tensor],
    rename: Callable[[str], str | None],
    source: Path | str,
    unused: str = "",
) -> None:
    """Copy stored tensors into `module`.

    Args:
        module: the target; it keeps its dtype.
        stored: by the names of the checkpoint.
        rename: a stored name -> the name in `module`, or None for a tensor that is not used, which a warning names.
        source: of the tensors, for messages.
        unused: meaning of the tensors that are not used, for the warning.

    Raises UserError if tensors are missing or left over, or shapes differ.
    """
    targets = {name: rename(name) for name in stored}
    state = {target: stored[name] for name, target in targets.items() if target is not None}
    try:
        missing, unexpected = module.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise UserError(
            f"{source} does not fit its own config.json: {one_line(error, None)}; download the checkpoint again"
        ) from error
    for names, fault in ((missing, "lacks"), (unexpected, "has unknown")):
        if names:
            raise UserError(
                f"{source} {fault} {len(names)} tensors, e.g. {', '.join(sorted(names)[:3])}; "
                "a file is missing, or it is not a checkpoint of this backbone: download it again or choose another"
            )
    warn_unused(source, [name for name, target in targets.items() if target is None], unused)


class FileTokenizer:
    """Tokenizer of a checkpoint, from its tokenizer.json. Raises UserError if that is missing."""

    FILE = "tokenizer.json"

    def __init__(self, folder: Path):
        try:
            check_regular(folder / self.FILE, MAX_JSON_BYTES)
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
