"""One way to make, save and load every policy: ours and LeRobot's own."""

import contextlib
import dataclasses
import difflib
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import draccus
import lerobot.policies
import torch
from draccus.utils import DraccusException, ParsingError
from lerobot.configs import PolicyFeature, PreTrainedConfig
from lerobot.datasets import LeRobotDatasetMetadata
from lerobot.policies import PreTrainedPolicy, get_policy_class, make_pre_post_processors
from lerobot.processor import PolicyProcessorPipeline
from lerobot.utils.constants import ACTION, OBS_STATE
from lerobot.utils.feature_utils import dataset_to_policy_features
from safetensors import SafetensorError
from transformers.utils import logging

from tinyvla.errors import UserError
from tinyvla.files import model_in, write_whole
from tinyvla.model import TinyVLA

from .hub_models import fetch_pretrained, resolve_models, save_models, use_carried_models
from .tinyvla import TinyVLAConfig

type Pipeline = PolicyProcessorPipeline[Any, Any]

_NAMES = "feature_names.json"  # beside LeRobot's files of a checkpoint, which say how many numbers there are, not which


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


def check_policy(policy_cfg: Mapping[str, Any], steps: int | None = None) -> None:
    """Raise UserError for what is wrong with a policy's settings, as far as that shows without a dataset.

    What is pretrained is fetched, so that trouble with the model hub comes up here as well. `steps`: how many the
    policy is to be trained for, if it is.
    """
    config = decode_policy_config(policy_cfg, device="cpu")
    resolve_models(config)
    fetch_pretrained(config)
    if config.type == "vqbet" and steps is not None and steps <= config.n_vqvae_training_steps:
        raise UserError(
            f"of {steps} training steps the first {config.n_vqvae_training_steps} only learn VQ-BeT's action codes; "
            "raise trainer.steps or lower policy.n_vqvae_training_steps"
        )
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
        resolve_models(config)
        if config.type == "vqbet":
            config.input_features = _with_one_camera(dataset_meta)
        with _quietly():
            return lerobot.policies.make_policy(config, ds_meta=dataset_meta)
    except (ValueError, OSError, NotImplementedError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"policy '{config.type}' cannot be made: {reason}; mend that setting") from error


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Keep off the screen what LeRobot prints, and what transformers says about weights that are yet to come."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _with_one_camera(dataset_meta: LeRobotDatasetMetadata) -> dict[str, PolicyFeature]:
    """A dataset's inputs for a policy that takes one camera: the first one, and all that is no camera."""
    features = dataset_to_policy_features(dataset_meta.features)
    unused = {*dataset_meta.camera_keys[1:], ACTION}
    return {key: feature for key, feature in features.items() if key not in unused}


def make_processors(policy: PreTrainedPolicy, dataset_stats: dict[str, dict[str, Any]]) -> tuple[Pipeline, Pipeline]:
    """LeRobot's pre- and post-processor pipelines of a policy, with a dataset's normalisation statistics."""
    return make_pre_post_processors(policy.config, dataset_stats=dataset_stats)


def save_checkpoint_files(
    policy: PreTrainedPolicy,
    preprocessor: Pipeline,
    postprocessor: Pipeline,
    directory: Path,
    weights: dict[str, torch.Tensor] | None = None,
    features: Mapping[str, Mapping[str, Any]] | None = None,
) -> None:
    """Write a policy as LeRobot does: config.json, model.safetensors and the two pipelines, all in `directory`.

    Args:
        weights: what to write instead of the policy's own, by name.
        features: of the dataset that it was trained on; see `feature_names`.
    """
    directory.mkdir(parents=True, exist_ok=True)
    policy.save_pretrained(directory, state_dict=weights)
    save_models(policy, preprocessor, directory)
    preprocessor.save_pretrained(directory)
    postprocessor.save_pretrained(directory)
    names = {key: (features or {}).get(key, {}).get("names") for key in (OBS_STATE, ACTION)}
    if told := {key: list(value) for key, value in names.items() if isinstance(value, list | tuple)}:
        write_whole(directory / _NAMES, json.dumps(told, indent=1))


def feature_names(path: Path | str) -> dict[str, list[str]]:
    """Names of the numbers in a checkpoint's observation.state and action, in order, as its dataset had them, such as
    `shoulder_pan.pos`; empty for a checkpoint that does not say. Raises UserError if there is no checkpoint.
    """
    try:
        return json.loads((find_checkpoint(path) / _NAMES).read_text())
    except FileNotFoundError:
        return {}


def find_checkpoint(path: Path | str) -> Path:
    """The folder with a policy's config.json at or below `path`: a checkpoint, or a run folder (its best, else last).

    Raises UserError if there is none.
    """
    if folder := model_in(path):
        return folder
    raise UserError(f"no policy checkpoint at {path}; give a run folder of train.py or a folder that holds config.json")


def load_checkpoint(path: Path | str, device: str | None = None) -> tuple[PreTrainedPolicy, Pipeline, Pipeline]:
    """Load a policy and its pipelines from a checkpoint or run folder onto `device` (None: the best there is).

    Raises UserError if files are missing, cut short, or of an unknown policy type.
    """
    folder = find_checkpoint(path)
    try:
        config = PreTrainedConfig.from_pretrained(folder, cli_overrides=[f"--device={device}"] if device else [])
        overrides = use_carried_models(config, folder) | {"device_processor": {"device": config.device}}
        with _quietly():
            policy = get_policy_class(config.type).from_pretrained(folder, config=config, strict=True)
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
