"""Training a policy: its trainable, and the settings of a run."""

from .settings import RunSettings, check_settings, decode_run
from .trainable import find_dataset, hold_out_episodes, train

__all__ = ["RunSettings", "check_settings", "decode_run", "find_dataset", "hold_out_episodes", "train"]
