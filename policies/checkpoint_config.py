"""The configuration of a checkpoint's policy, read as data: only types that this stack trains, only suitable values."""

from pathlib import Path
from typing import Any

from lerobot.configs import PreTrainedConfig

from tinyvla.errors import UserError
from tinyvla.hub_files import AUTHORS_HINT, check_model_folder, is_hub_id
from tinyvla.untrusted import check_values, inside, read_json_object

from .factory import POLICIES, decode_policy_config
from .pipelines import MAX_SIZE, is_device, is_features, is_normalization
from .tinyvla.configuration_tinyvla import add_earlier_defaults

# LeRobot's policies that configs/policy/ has.
LEROBOT_TYPES = ("act", "diffusion", "multi_task_dit", "smolvla", "vqbet")
_MAX_SIDE = 4096  # of images that are resized or cropped
_UNBOUNDED = ("optimizer_", "scheduler_", "n_vqvae_training_steps")  # settings of training; nothing is made from them


def policy_types() -> list[str]:
    """Types of policy that a checkpoint may have: this stack's, LeRobot's that it trains, and installed packages'."""
    return list(dict.fromkeys([*POLICIES.names(), *LEROBOT_TYPES]))


def read_policy_config(folder: Path, device: str | None = None) -> PreTrainedConfig:
    """Configuration of a checkpoint's policy.

    Args:
        device: in place of the stored one.

    Raises UserError for a type, field or value that is not accepted.
    """
    file = inside(folder, "config.json")
    content = read_json_object(file)
    check_values(content, file.name)
    if content.get("model_type") == "llava_pythia":
        raise UserError(f"{folder} is not a checkpoint of this stack; {AUTHORS_HINT}")
    if (name := content.get("type")) not in policy_types():
        raise UserError(
            f"config.json has the policy type {str(name)[:50]!r}; this stack loads {', '.join(policy_types())}"
        )
    for key, is_suitable in {
        "input_features": is_features,
        "output_features": is_features,
        "normalization_mapping": is_normalization,
        "device": is_device,
    }.items():
        if content.get(key) is not None and not is_suitable(content[key]):
            raise UserError(f"config.json: {key} cannot be {str(content[key])[:80]!r}; get the original file")
    if name in ("tinyvla", *LEROBOT_TYPES):
        _check_sizes(content, "config.json")
    # The checkpoint that training began with, a folder of another machine; loading does not need it.
    content |= {key: None for key in ("pretrained_path", "pretrained_revision") if key in content}
    if isinstance(backbone := content.get("backbone"), dict):
        _check_backbone(backbone, folder)
    if name == "tinyvla":
        add_earlier_defaults(content)
    return decode_policy_config(content, device)


def _check_sizes(value: Any, place: str, limit: int = MAX_SIZE) -> None:
    """Raise UserError for a size that no policy has: beyond the limit, or below -1, which is LeRobot's `all`."""
    if isinstance(value, list):
        for entry in value:
            _check_sizes(entry, place, limit)
    elif isinstance(value, dict):
        for key, entry in value.items():
            if not key.startswith(_UNBOUNDED):
                is_side = "shape" in key or "resize" in key or key == "image_size"
                bound = 1 << 20 if key == "vocab_size" else _MAX_SIDE if is_side else limit
                _check_sizes(entry, f"{place}: {key[:50]}", bound)
    elif type(value) is int and not -1 <= value <= limit:
        raise UserError(f"{place} is {value}, and must lie between 0 and {limit}; get the original file")


def _check_backbone(backbone: dict[str, Any], folder: Path) -> None:
    """Refuse a pretrained model that is neither in the checkpoint nor on the hub; check the options of one inside."""
    from .tinyvla.modeling_tinyvla import ASSETS

    if "assets" in backbone:
        backbone["assets"] = None  # a folder of another machine
    if (folder / ASSETS).is_dir():
        check_model_folder(inside(folder, ASSETS))
    name = backbone.get("pretrained")
    if name is None or name == "released":
        return
    if not (folder / ASSETS).is_dir() and not is_hub_id(name):
        raise UserError(
            f"config.json: backbone.pretrained is {str(name)[:80]!r}, neither an id of the model hub nor in the "
            "checkpoint; get a checkpoint with its folder 'backbone'"
        )
