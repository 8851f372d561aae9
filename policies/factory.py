"""Policies from their options: ours and LeRobot's own, behind one interface."""

import contextlib
import copy
import dataclasses
import io
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import draccus
import torch
from draccus.utils import DraccusException, ParsingError
from lerobot.configs import FeatureType, PolicyFeature, PreTrainedConfig

from tinyvla.errors import UserError, did_you_mean, one_line
from tinyvla.model import TinyVLA
from tinyvla.registry import Registry

from .tinyvla import TinyVLAConfig
from .tinyvla.frontends import make_frontend

if TYPE_CHECKING:
    from lerobot.datasets import LeRobotDatasetMetadata
    from lerobot.policies import PreTrainedPolicy
    from lerobot.processor import PolicyProcessorPipeline

    from .image_size import ImageSizeStep

_MAY_BE_ZERO = ("drop_", "optimizer_", "scheduler_", "empty_")  # beginnings of names

type Pipeline = PolicyProcessorPipeline[Any, Any]

# The options of policies that installed packages add. LeRobot finds their network and pipelines by its own convention:
# modeling_<name>.py and processor_<name>.py beside configuration_<name>.py.
POLICIES = Registry("policy", "tinyvla.policies", {"tinyvla": "policies.tinyvla:TinyVLAConfig"})


def register_policies() -> None:
    """Make all policies known to LeRobot. Raises UserError for an entry point that cannot be imported."""
    import lerobot.policies  # noqa: F401  # registers LeRobot's own

    for name, config_class in POLICIES.load_all().items():
        if name not in PreTrainedConfig.get_known_choices():
            PreTrainedConfig.register_subclass(name, config_class)


def decode_policy_config(policy_cfg: Mapping[str, Any], device: str | None = None) -> PreTrainedConfig:
    """The LeRobot config dataclass that `policy_cfg` (its `type` and any of its fields) describes.

    Raises UserError for an unknown policy, an unknown field (naming the nearest) or an unsuitable value.
    """
    register_policies()
    options = dict(policy_cfg)
    name = options.pop("type", None)
    known = sorted(PreTrainedConfig.get_known_choices())
    if name not in known:
        raise UserError(f"unknown policy '{name}'; {did_you_mean(str(name), known, cutoff=0.3)}")
    config_class = PreTrainedConfig.get_choice_class(name)
    fields = [field.name for field in dataclasses.fields(config_class)]
    for option in options:
        if option not in fields:
            raise UserError(f"policy '{name}' has no field '{option}'; {did_you_mean(option, fields)}")
    try:
        return draccus.decode(config_class, options | ({"device": device} if device else {}))
    except (DraccusException, ValueError, TypeError, NotImplementedError) as error:
        # An error of the dataclass's own check is the cause of draccus's error.
        cause = error.__cause__ if type(error) is ParsingError and error.__cause__ else error
        raise UserError(
            f"the options of policy '{name}' do not fit: {one_line(cause, None)}; change that field"
        ) from error


def check_policy(config: PreTrainedConfig, steps: int | None = None) -> None:
    """Raise UserError for faults of a policy's options, as far as they show without a dataset.

    Pretrained models are downloaded, so that problems with the model hub appear here as well.

    steps: training steps, if the policy is to be trained.
    """
    from .hub_models import fetch_pretrained, resolve_models

    check_numbers(config)
    config = copy.deepcopy(config)
    resolve_models(config)
    fetch_pretrained(config)
    if config.type == "vqbet" and steps is not None and steps <= config.n_vqvae_training_steps:
        raise UserError(
            f"of {steps} training steps the first {config.n_vqvae_training_steps} only learn VQ-BeT's action codes; "
            "raise trainer.steps or lower policy.n_vqvae_training_steps"
        )
    for name, options in getattr(config, "frontend", {}).items():
        make_frontend(name, options)
    try:
        with torch.device("meta"), quiet_libraries():  # neither computes nor takes memory
            _build_example(config)
    except (ValueError, AssertionError, ArithmeticError, RuntimeError, TypeError, IndexError) as error:
        raise UserError(
            f"the configuration of policy '{config.type}' does not fit: {one_line(error)}; change that field"
        ) from error


def check_numbers(config: PreTrainedConfig) -> None:
    """Raise UserError for a number of a policy's options that cannot be: not finite, negative, or 0 where it counts.

    LeRobot's dataclasses state no ranges. A number whose default is 0 or more is never negative, and a whole number
    whose default is positive counts layers, steps or sizes, of which there is at least one.
    """
    for field in dataclasses.fields(config):
        value, default = getattr(config, field.name), field.default
        if isinstance(value, bool) or not isinstance(value, int | float) or not isinstance(default, int | float):
            continue
        least = 1 if isinstance(default, int) and default > 0 and not field.name.startswith(_MAY_BE_ZERO) else 0
        if not math.isfinite(value) or (default >= 0 and value < least):
            raise UserError(f"policy.{field.name}={value} does not fit; use {least} or more")


def _build_example(config: Any) -> None:
    """Build a policy for one small camera; one whose models come from the hub is built when the dataset is known."""
    from lerobot.policies import get_policy_class

    from .hub_models import MODELS

    if isinstance(config, TinyVLAConfig):
        TinyVLA(config.backbone, config.decoder, state_dim=1, action_dim=1, chunk_size=config.chunk_size)
    elif config.type not in MODELS:
        config.input_features = {
            "observation.images.camera": PolicyFeature(FeatureType.VISUAL, (3, 96, 96)),
            "observation.state": PolicyFeature(FeatureType.STATE, (4,)),
        }
        config.output_features = {"action": PolicyFeature(FeatureType.ACTION, (4,))}
        get_policy_class(config.type)(config)


def make_policy(
    config: PreTrainedConfig,
    dataset_meta: "LeRobotDatasetMetadata",
    device: str | None = None,
    image_size: tuple[int, int] | None = None,
) -> "PreTrainedPolicy":
    """A fresh policy with the cameras, state and action sizes of a dataset.

    Args:
        config: the policy's options, see `decode_policy_config`.
        device: None: that of the options.
        image_size: height and width of the images that it sees; None: those of the dataset.

    Raises UserError if the options do not fit each other or the dataset, or pretrained weights cannot be downloaded.
    """
    import lerobot.policies

    from .hub_models import resolve_models

    config = copy.deepcopy(config)
    config.device = device or config.device
    try:
        resolve_models(config)
        config.input_features = config.input_features or _inputs(config, dataset_meta, image_size)
        with quiet_libraries():
            return lerobot.policies.make_policy(config, ds_meta=dataset_meta)
    except (ValueError, OSError, NotImplementedError) as error:
        raise UserError(
            f"policy '{config.type}' cannot be made: {one_line(error, None)}; change that setting"
        ) from error


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Suppress LeRobot's output, and transformers' warnings about weights that are loaded later."""
    from transformers.utils import logging

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


def _inputs(
    config: PreTrainedConfig, dataset_meta: "LeRobotDatasetMetadata", image_size: tuple[int, int] | None
) -> dict[str, PolicyFeature]:
    """Inputs of a dataset for a policy: all features but the actions, with images of the size that it sees."""
    from lerobot.utils.feature_utils import dataset_to_policy_features

    from .image_size import MAX_CHANNELS, camera_sizes

    features = dataset_to_policy_features(dataset_meta.features)
    unused = dataset_meta.camera_keys[1:] if config.type == "vqbet" else []  # it sees one camera, the first
    inputs = {
        key: feature
        for key, feature in features.items()
        if feature.type is not FeatureType.ACTION and key not in unused
    }
    sizes = camera_sizes(dataset_meta.features)
    for key, feature in inputs.items():
        # LeRobot reads a shape as (height, width, channels) only if its last number is named channels.
        if feature.type is FeatureType.VISUAL and (image_size is not None or feature.shape[0] > MAX_CHANNELS):
            inputs[key] = PolicyFeature(FeatureType.VISUAL, (3, *(image_size or sizes[key])))
    return inputs


def make_processors(
    policy: "PreTrainedPolicy", dataset_stats: dict[str, dict[str, Any]], image_step: "ImageSizeStep | None" = None
) -> "tuple[Pipeline, Pipeline]":
    """LeRobot's pre- and post-processor pipelines of a policy, with a dataset's normalisation statistics.

    image_step: fits images to the policy's size; None: they have it.
    """
    from lerobot.policies import make_pre_post_processors

    from .image_size import with_step

    preprocessor, postprocessor = make_pre_post_processors(policy.config, dataset_stats=dataset_stats)
    return with_step(preprocessor, image_step), postprocessor
