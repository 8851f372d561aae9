"""Training a policy: its trainable, and the settings of a run."""

from .frozen_networks import warn_of_frozen_networks
from .settings import RunSettings, check_settings, decode_run
from .trainable import find_dataset, hold_out_episodes, train

__all__ = [
    "RunSettings",
    "check_settings",
    "decode_run",
    "find_dataset",
    "hold_out_episodes",
    "train",
    "warn_of_frozen_networks",
]
