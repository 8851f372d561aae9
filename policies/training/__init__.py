"""Training a policy: its trainable, and the checks of a run's settings."""

from .policy import train
from .settings import check_settings

__all__ = ["check_settings", "train"]
