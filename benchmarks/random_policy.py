"""Checkpoints of policies with random weights, for benchmarks of everything around a policy."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lerobot.configs import FeatureType, PolicyFeature

from configs.composing import as_dict, load_config
from policies import decode_policy_config, make_processors, save_checkpoint_files
from policies.tinyvla.modeling_tinyvla import TinyVLAPolicy

TINY = [
    *("backbone.image_size=32", "decoder.network.widths=[16,32]", "decoder.network.step_embedding=16"),
    *("policy.chunk_size=16", "policy.n_action_steps=4"),
]  # settings of train.py for a policy that computes a chunk in milliseconds


def write_random_policy(
    folder: Path,
    cameras: Mapping[str, int],
    low: Sequence[float],
    high: Sequence[float],
    overrides: Sequence[str] = (),
) -> Path:
    """Write a checkpoint of the default policy with random weights, always the same; returns the folder.

    Args:
        folder: becomes the checkpoint.
        cameras: side of the square images in pixels, by camera.
        low, high: range of state and actions, (n,) each.
        overrides: settings of train.py.
    """
    config: Any = decode_policy_config(as_dict(load_config("train", list(overrides)).policy), "cpu")
    config.input_features = {
        f"observation.images.{camera}": PolicyFeature(FeatureType.VISUAL, (3, size, size))
        for camera, size in cameras.items()
    } | {"observation.state": PolicyFeature(FeatureType.STATE, (len(low),))}
    config.output_features = {"action": PolicyFeature(FeatureType.ACTION, (len(low),))}
    torch.manual_seed(0)
    policy = TinyVLAPolicy(config)
    least, most = torch.tensor(low), torch.tensor(high)
    statistics = {"min": least, "max": most, "mean": (least + most) / 2, "std": (most - least) / 2}
    processors = make_processors(policy, {"observation.state": statistics, "action": statistics})
    save_checkpoint_files(policy, *processors, folder)
    return folder
