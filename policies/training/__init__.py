"""Training: one loop for every policy, and what a run leaves behind."""

from .device import make_accelerator, on_first_process
from .loop import train
from .run import find_run, open_run
from .settings import check_settings
from .tracking import Tracker, read_metrics

__all__ = [
    "Tracker",
    "check_settings",
    "find_run",
    "make_accelerator",
    "on_first_process",
    "open_run",
    "read_metrics",
    "train",
]
