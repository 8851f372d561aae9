"""Checkpoints of policies: find, read and write them. Heavy libraries are imported by the functions that need them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinyvla.errors import UserError, one_line
from tinyvla.files import model_in, write_whole

if TYPE_CHECKING:
    from lerobot.policies import PreTrainedPolicy
    from torch import Tensor

    from .factory import Pipeline

FEATURE_NAMES = "feature_names.json"  # beside LeRobot's files of a checkpoint, which hold sizes only


def find_checkpoint(path: Path | str) -> Path:
    """The folder with a policy's config.json at or below `path`: a checkpoint, or a run folder (its best, else last).

    Raises UserError if there is none.
    """
    if folder := model_in(path):
        return folder
    raise UserError(f"no policy checkpoint at {path}; give a run folder of train.py or a folder that holds config.json")


def feature_names(path: Path | str) -> dict[str, list[str]]:
    """Names of the values of a checkpoint's observation.state and action, in order, such as `shoulder_pan.pos`.

    They are those of the dataset that the policy was trained on; empty for a checkpoint without them. Raises UserError
    if there is no checkpoint.
    """
    try:
        return json.loads((find_checkpoint(path) / FEATURE_NAMES).read_text())
    except FileNotFoundError:
        return {}


def save_checkpoint_files(
    policy: "PreTrainedPolicy",
    preprocessor: "Pipeline",
    postprocessor: "Pipeline",
    directory: Path,
    weights: "dict[str, Tensor] | None" = None,
    features: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Write a policy as LeRobot does: config.json, model.safetensors and the two pipelines, all in `directory`.

    Args:
        weights: tensors by name to write instead of the policy's own.
        features: of the dataset that it was trained on; see `feature_names`.
    """
    from lerobot.utils.constants import ACTION, OBS_STATE

    from .hub_models import save_models

    directory.mkdir(parents=True, exist_ok=True)
    policy.save_pretrained(directory, state_dict=weights)
    save_models(policy, preprocessor, directory)
    preprocessor.save_pretrained(directory)
    postprocessor.save_pretrained(directory)
    names = {key: (features or {}).get(key, {}).get("names") for key in (OBS_STATE, ACTION)}
    if lists := {key: list(value) for key, value in names.items() if isinstance(value, list | tuple)}:
        write_whole(directory / FEATURE_NAMES, json.dumps(lists, indent=1))


def load_checkpoint(path: Path | str, device: str | None = None) -> "tuple[PreTrainedPolicy, Pipeline, Pipeline]":
    """Load a policy and its pipelines from a checkpoint or run folder onto `device` (None: the fastest one).

    Raises UserError if files are missing, cut short, or of an unknown policy type.
    """
    from draccus.utils import DraccusException
    from lerobot.configs import PreTrainedConfig
    from lerobot.policies import get_policy_class, make_pre_post_processors
    from safetensors import SafetensorError

    from .factory import quiet_libraries, register_policies
    from .hub_models import use_checkpoint_models

    folder = find_checkpoint(path)
    register_policies()
    try:
        config = PreTrainedConfig.from_pretrained(folder, cli_overrides=[f"--device={device}"] if device else [])
        overrides = use_checkpoint_models(config, folder) | {"device_processor": {"device": config.device}}
        with quiet_libraries():
            policy = get_policy_class(config.type).from_pretrained(folder, config=config, strict=True)
        preprocessor, postprocessor = make_pre_post_processors(
            config, pretrained_path=str(folder), preprocessor_overrides=overrides
        )
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError, DraccusException) as error:
        raise UserError(
            f"the checkpoint {folder} cannot be loaded ({type(error).__name__}: {one_line(error, 300)}); "
            "it may be cut short: use another checkpoint of the run, or train again"
        ) from error
    return policy, preprocessor, postprocessor
