"""One way to make, save and load every policy: ours and LeRobot's own."""

import contextlib
import dataclasses
import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import draccus
import lerobot.policies
import torch
from draccus.utils import DraccusException, ParsingError
from lerobot.configs import PreTrainedConfig
from lerobot.datasets import LeRobotDatasetMetadata
from lerobot.policies import PreTrainedPolicy, get_policy_class, make_pre_post_processors
from lerobot.processor import PolicyProcessorPipeline
from safetensors import SafetensorError

from tinyvla.errors import UserError
from tinyvla.model import TinyVLA

from .tinyvla import TinyVLAConfig

type Pipeline = PolicyProcessorPipeline[Any, Any]


def decode_policy_config(policy_cfg: Mapping[str, Any], device: str | None = None) -> PreTrainedConfig:
    """The LeRobot config dataclass that `policy_cfg` (its `type` and any of its fields) describes.

    Raises UserError for an unknown policy, an unknown field (naming the nearest) or a value that does not fit.
    """
    fields = dict(policy_cfg)
    name = fields.pop("type", None)
    known = sorted(PreTrainedConfig.get_known_choices())
    if name not in known:
        near = difflib.get_close_matches(str(name), known, n=3, cutoff=0.3) or known
        raise UserError(f"unknown policy '{name}'; did you mean {' or '.join(near)}?")
    config_class = PreTrainedConfig.get_choice_class(name)
    valid = [field.name for field in dataclasses.fields(config_class)]
    for field in fields:
        if field not in valid:
            near = difflib.get_close_matches(field, valid, n=3) or valid
            raise UserError(f"policy '{name}' has no field '{field}'; the nearest are: {', '.join(near)}")
    try:
        return draccus.decode(config_class, fields | ({"device": device} if device else {}))
    except (DraccusException, ValueError, TypeError, NotImplementedError) as error:
        # What a dataclass itself objects to is only the cause of draccus's error.
        told = error.__cause__ if type(error) is ParsingError and error.__cause__ else error
        reason = " ".join(str(told).split())
        raise UserError(f"the configuration of policy '{name}' does not fit: {reason}; mend that field") from error


def check_policy(policy_cfg: Mapping[str, Any]) -> None:
    """Raise UserError for what is wrong with a policy's settings, as far as that shows without a dataset.

    A pretrained backbone is fetched, so that trouble with the model hub comes up here as well.
    """
    config = decode_policy_config(policy_cfg, device="cpu")
    if isinstance(config, TinyVLAConfig):
        try:
            with torch.device("meta"):  # neither computes nor takes memory
                TinyVLA(config.backbone, config.decoder, state_dim=1, action_dim=1, chunk_size=config.chunk_size)
        except ValueError as error:
            raise UserError(f"the configuration of policy 'tinyvla' does not fit: {error}; mend that field") from error


def make_policy(
    policy_cfg: Mapping[str, Any], dataset_meta: LeRobotDatasetMetadata, device: str | None = None
) -> PreTrainedPolicy:
    """A fresh policy with the cameras, state and action sizes of a dataset, on `device` (None: the best there is).

    Raises UserError if its settings do not fit each other or the dataset, or its pretrained weights cannot be fetched.
    """
    config = decode_policy_config(policy_cfg, device)
    try:
        return lerobot.policies.make_policy(config, ds_meta=dataset_meta)
    except (ValueError, OSError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"policy '{config.type}' cannot be made: {reason}; mend that setting") from error


def make_processors(policy: PreTrainedPolicy, dataset_stats: dict[str, dict[str, Any]]) -> tuple[Pipeline, Pipeline]:
    """LeRobot's pre- and post-processor pipelines of a policy, with a dataset's normalisation statistics."""
    return make_pre_post_processors(policy.config, dataset_stats=dataset_stats)


def save_checkpoint_files(
    policy: PreTrainedPolicy,
    preprocessor: Pipeline,
    postprocessor: Pipeline,
    directory: Path,
    weights: dict[str, torch.Tensor] | None = None,
) -> None:
    """Write a policy as LeRobot does: config.json, model.safetensors and the two pipelines, all in `directory`.

    weights: what to write instead of the policy's own, by name.
    """
    directory.mkdir(parents=True, exist_ok=True)
    policy.save_pretrained(directory, state_dict=weights)
    preprocessor.save_pretrained(directory)
    postprocessor.save_pretrained(directory)


def find_checkpoint(path: Path | str) -> Path:
    """The folder with a policy's config.json at or below `path`: a checkpoint, or a run folder (its best, else last).

    Raises UserError if there is none.
    """
    path = Path(path)
    below = ["", "pretrained_model", "checkpoints/best/pretrained_model", "checkpoints/last/pretrained_model"]
    for folder in (path / name for name in below):
        if (folder / "config.json").is_file():
            return folder
    raise UserError(f"no policy checkpoint at {path}; give a run folder of train.py or a folder that holds config.json")


def load_policy(path: Path | str, device: str | None = None) -> tuple[PreTrainedPolicy, Pipeline, Pipeline]:
    """Load a policy and its pipelines from a checkpoint or run folder onto `device` (None: the best there is).

    Raises UserError if files are missing, cut short, or of an unknown policy type.
    """
    folder = find_checkpoint(path)
    try:
        config = PreTrainedConfig.from_pretrained(folder, cli_overrides=[f"--device={device}"] if device else [])
        with contextlib.redirect_stdout(None):  # LeRobot prints what it does
            policy = get_policy_class(config.type).from_pretrained(folder, config=config, strict=True)
        overrides = {"device_processor": {"device": config.device}}
        preprocessor, postprocessor = make_pre_post_processors(
            config, pretrained_path=str(folder), preprocessor_overrides=overrides
        )
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError, DraccusException) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"the checkpoint {folder} cannot be loaded ({type(error).__name__}: {reason}); "
            "it may be cut short: use another checkpoint of the run, or train again"
        ) from error
    return policy, preprocessor, postprocessor
