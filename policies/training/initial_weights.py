"""Initial weights of a run from another policy: pre-training on a simulation, fine-tuning on one's own recordings."""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lerobot.configs import PreTrainedConfig
from lerobot.policies import PreTrainedPolicy
from torch import Tensor

from tinyvla.backbones.lora import merge_lora, name_base_layers
from tinyvla.errors import UserError, one_line
from tinyvla.network_size import WEIGHTS
from tinyvla.tensor_files import read_tensors
from tinyvla.untrusted import inside

from ..checkpoint_config import read_policy_config
from ..checkpoints import check_checkpoint_files, feature_names, find_checkpoint
from ..tinyvla.modeling_tinyvla import TinyVLAPolicy

if TYPE_CHECKING:
    from lerobot.datasets import LeRobotDatasetMetadata

_LEAST_SHARE = 0.5  # of a policy's values; with less, the checkpoint is another network
_DEPTH, _NAMED = 3, 4  # of the names of modules, and number of tensors and settings in a message
# Learnt in a phase of its own, from the actions of one dataset.
_OF_THE_DATASET = "action_head.vqvae_model."
_BACKBONE = "model.backbone."  # beginning of the names of the weights of TinyVLA's backbone
# Settings that no weight depends on.
_WITHOUT_WEIGHTS = ("optimizer_", "scheduler_", "n_action_steps", "device", "pretrained_", "input_", "output_", "push_")


def check_initial_weights(source: Path, config: PreTrainedConfig) -> None:
    """Raise UserError unless `source` is a checkpoint, or a run with one, of the same type of policy as `config`."""
    folder = find_checkpoint(source)
    check_checkpoint_files(folder)
    if (stored := read_policy_config(folder)).type != config.type:
        raise UserError(
            f"init_from={source} is a policy of the type {stored.type} and this run trains {config.type}; add "
            f"policy={stored.type}, or give a checkpoint of {config.type}"
        )


def take_weights(policy: PreTrainedPolicy, source: Path, meta: "LeRobotDatasetMetadata") -> str:
    """Give a fresh policy the weights of a checkpoint that it has under the same name and in the same size.

    Those of a camera are taken from the checkpoint's camera of that name, else from a camera that is left over. All
    others, such as projections of a state of another size, keep their random initial values.

    Args:
        policy: the fresh one, changed in place.
        source: a run folder or checkpoint of the same type.
        meta: of the new dataset.

    Returns a table of what has been taken. Raises UserError if less than half of the policy's values fit, or its
    backbone is of another kind.
    """
    folder = find_checkpoint(source)
    config, stored = read_policy_config(folder, "cpu"), read_tensors(inside(folder, WEIGHTS))
    fresh = policy.state_dict()
    stored = _with_lora_of(stored, fresh, config, policy.config)
    same_backbone = isinstance(policy, TinyVLAPolicy) and not _differences(config.backbone, policy.config.backbone)
    if same_backbone and not policy.frontends and not config.frontend:
        stored = _with_cameras_moved(policy, stored, list(config.image_features))
    taken = {
        name: tensor
        for name, tensor in stored.items()
        if name in fresh and fresh[name].shape == tensor.shape and _OF_THE_DATASET not in name
    }
    share = _values(taken.values()) / _values(fresh.values())
    kinds = [_kind(getattr(options, "backbone", None)) for options in (config, policy.config)]
    if share < _LEAST_SHARE or kinds[0] != kinds[1]:
        differences = "; ".join(_differences(config, policy.config)) or "the sizes of its cameras, state or action"
        raise UserError(
            f"init_from={source} has another network: {share:.0%} of the weights fit ({differences}); train with the "
            "settings of that policy, or leave out init_from"
        )
    with torch.no_grad():
        for name, tensor in taken.items():
            fresh[name].copy_(tensor)
    return "\n".join(
        [f"initial weights from {folder}", *_table(fresh, stored, taken, share), *_renamed(feature_names(folder), meta)]
    )


def _with_lora_of(
    stored: dict[str, Tensor], fresh: Mapping[str, Tensor], config: PreTrainedConfig, run_config: PreTrainedConfig
) -> dict[str, Tensor]:
    """Weights of a checkpoint for a backbone with LoRA of its own, or with none, on which they have the same effect.

    The checkpoint's matrices are kept where the policy has the same ones; else they are added to their layers, and the
    policy's begin as zero updates.
    """
    before, now = (getattr(getattr(options, "backbone", None), "lora", None) for options in (config, run_config))
    if before is None or now is None:
        return stored
    names = [{name for name in weights if "lora_" in name} for weights in (stored, fresh)]
    if names[0] == names[1] and (before.r, before.alpha) == (now.r, now.alpha):
        return stored
    return name_base_layers(merge_lora(stored, before.alpha), fresh)


def _with_cameras_moved(policy: TinyVLAPolicy, stored: Mapping[str, Tensor], cameras: list[str]) -> dict[str, Tensor]:
    """Weights of a checkpoint in the order of a policy's cameras. cameras: the checkpoint's, in order."""
    left_over = [index for index, camera in enumerate(cameras) if camera not in policy.cameras]
    sources = [
        cameras.index(camera) if camera in cameras else left_over.pop(0) if left_over else None
        for camera in policy.cameras
    ]
    if sources == list(range(len(cameras))):
        return dict(stored)
    inner = {name.removeprefix(_BACKBONE): tensor for name, tensor in stored.items() if name.startswith(_BACKBONE)}
    try:
        moved = policy.model.backbone.move_cameras(inner, sources)
    except (KeyError, IndexError, RuntimeError) as error:
        raise UserError(
            f"the weights of init_from are not those that its config.json describes ({one_line(error, 120)}); get a "
            "complete checkpoint"
        ) from error
    outer = {name: tensor for name, tensor in stored.items() if not name.startswith(_BACKBONE)}
    return outer | {f"{_BACKBONE}{name}": tensor for name, tensor in moved.items()}


def _values(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors)


def _table(
    fresh: Mapping[str, Tensor], stored: Mapping[str, Tensor], taken: Mapping[str, Tensor], share: float
) -> list[str]:
    modules = Counter(".".join(name.split(".")[:_DEPTH]) for name in taken)
    lines = [f"  taken      {share:6.1%} of the values: {_some([f'{name} ({n})' for name, n in modules.items()])}"]
    anew = []
    for name in fresh.keys() - taken.keys():
        here, there = tuple(fresh[name].shape), tuple(stored[name].shape) if name in stored else None
        anew.append(f"{name} {here}" + ("" if there in (None, here) else f", there {there}"))
    lines.append(f"  start anew {1 - share:6.1%}: {_some(sorted(anew)) or 'none'}")
    if unused := sorted(stored.keys() - fresh.keys()):
        lines.append(f"  left out: {_some(unused)}")
    return lines


def _some(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return "; ".join(names[:_NAMED]) + (f"; and {more} more" if more > 0 else "")


def _renamed(names: Mapping[str, Sequence[str]], meta: "LeRobotDatasetMetadata") -> list[str]:
    """Line per feature of the same size whose numbers have other names than in the checkpoint."""
    lines = []
    for key, before in names.items():
        now = meta.features.get(key, {}).get("names")
        if isinstance(now, list) and len(now) == len(before) and now != list(before):
            lines.append(f"  {key} was {', '.join(before)} and is now {', '.join(map(str, now))}")
    return lines


def _differences(there: Any, here: Any, prefix: str = "") -> list[str]:
    """Settings of two configurations that differ, such as `backbone.type film instead of nano`."""
    if type(there) is not type(here):
        return [f"{prefix.rstrip('.')} {_kind(there)} there, {_kind(here)} here"]
    differences = []
    for option in dataclasses.fields(there):
        if option.name.startswith(_WITHOUT_WEIGHTS):
            continue
        before, now = getattr(there, option.name), getattr(here, option.name)
        if dataclasses.is_dataclass(before) and dataclasses.is_dataclass(now):
            differences += _differences(before, now, f"{prefix}{option.name}.")
        elif before != now:
            differences.append(f"{prefix}{option.name} {str(before)[:30]} there, {str(now)[:30]} here")
    return differences[:_NAMED]


def _kind(options: Any) -> str:
    """Name of a choice, such as `nano`, or of the class of anything else."""
    kind = type(options)
    return str(kind.get_choice_name(kind)) if hasattr(kind, "get_choice_name") else kind.__name__
