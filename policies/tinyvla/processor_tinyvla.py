"""Normalisation of states and actions: TinyVLA's pre- and post-processor, LeRobot's default pipelines.

The pre-processor normalises observations, and actions in training, before the policy; the post-processor un-normalises
the policy's actions to the robot's own units. Both use the statistics of the dataset and the modes of
`TinyVLAConfig.normalization_mapping`: states by mean and standard deviation, actions by minimum and maximum to [-1, 1],
images not at all (they are in [0, 1]). A checkpoint stores both pipelines with their statistics beside the weights.

Every action inside the policy (`policies.tinyvla.modeling_tinyvla`, `tinyvla.decoders`) is normalised, every action
outside (`policies.runner`, datasets, environments, robots) is not.
"""

from typing import Any

import torch
from lerobot.processor import PolicyAction, PolicyProcessorPipeline, make_default_pre_post_processors

from .configuration_tinyvla import TinyVLAConfig


def make_tinyvla_pre_post_processors(
    config: TinyVLAConfig, dataset_stats: dict[str, dict[str, torch.Tensor]] | None = None
) -> tuple[
    PolicyProcessorPipeline[dict[str, Any], dict[str, Any]], PolicyProcessorPipeline[PolicyAction, PolicyAction]
]:
    """Pre- and post-processor pipelines with a dataset's statistics; see the module's docstring."""
    return make_default_pre_post_processors(config, dataset_stats, normalizer_device=config.device)
