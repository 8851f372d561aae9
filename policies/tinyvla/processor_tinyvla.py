"""TinyVLA's pre- and post-processing: LeRobot's default pipelines (normalise in, un-normalise out)."""

from typing import Any

import torch
from lerobot.processor import PolicyAction, PolicyProcessorPipeline, make_default_pre_post_processors

from .configuration_tinyvla import TinyVLAConfig


def make_tinyvla_pre_post_processors(
    config: TinyVLAConfig, dataset_stats: dict[str, dict[str, torch.Tensor]] | None = None
) -> tuple[
    PolicyProcessorPipeline[dict[str, Any], dict[str, Any]], PolicyProcessorPipeline[PolicyAction, PolicyAction]
]:
    """Pre- and post-processor pipelines with a dataset's statistics; they are saved beside the policy's weights."""
    return make_default_pre_post_processors(config, dataset_stats, normalizer_device=config.device)
