"""Normalisation of states and actions: TinyVLA's pre- and post-processor, LeRobot's default pipelines.

The pre-processor normalises observations, and actions in training, before the policy; the post-processor un-normalises
the policy's actions to the robot's own units. Both use the statistics of the dataset and the modes of
`TinyVLAConfig.normalization_mapping`: states by mean and standard deviation, actions by minimum and maximum to [-1, 1],
images not at all (they are in [0, 1]). A checkpoint stores both pipelines with their statistics beside the weights.

Every action inside the policy (`policies.tinyvla.modeling_tinyvla`, `tinyvla.decoders`) is normalised, every action
outside (`policies.runner`, datasets, environments, robots) is not.
"""

from collections.abc import Mapping
from typing import Any

import torch
from lerobot.configs import FeatureType
from lerobot.processor import PolicyAction, PolicyProcessorPipeline, make_default_pre_post_processors

from .configuration_tinyvla import TinyVLAConfig

type Statistics = dict[str, dict[str, Any]]


def make_tinyvla_pre_post_processors(
    config: TinyVLAConfig, dataset_stats: dict[str, dict[str, torch.Tensor]] | None = None
) -> tuple[
    PolicyProcessorPipeline[dict[str, Any], dict[str, Any]], PolicyProcessorPipeline[PolicyAction, PolicyAction]
]:
    """Pre- and post-processor pipelines with a dataset's statistics; see the module's docstring."""
    statistics = None if dataset_stats is None else adapt_statistics(config, dataset_stats)
    return make_default_pre_post_processors(config, statistics, normalizer_device=config.device)


def adapt_statistics(config: TinyVLAConfig, dataset_stats: Mapping[str, Mapping[str, Any]]) -> Statistics:
    """Statistics of a dataset with the least deviation of states and the margin of actions of a policy's options."""
    statistics = {key: dict(values) for key, values in dataset_stats.items()}
    for key, feature in {**(config.input_features or {}), **(config.output_features or {})}.items():
        values = statistics.get(key, {})
        if feature.type is FeatureType.STATE and config.min_state_std and "std" in values:
            values["std"] = torch.as_tensor(values["std"]).clamp(min=config.min_state_std)
        if feature.type is FeatureType.ACTION and config.action_margin and {"min", "max"} <= values.keys():
            values["min"] = torch.as_tensor(values["min"]) - config.action_margin
            values["max"] = torch.as_tensor(values["max"]) + config.action_margin
    return statistics
