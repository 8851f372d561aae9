"""Training: one loop for every policy, and what a run leaves behind."""

from .device import make_accelerator, on_first_process
from .loop import fit
from .policy import train
from .run import find_run, open_run
from .settings import check_settings
from .tracking import Tracker, read_metrics
from .trainee import Batch, Trainee, step_generator

__all__ = [
    "Batch",
    "Tracker",
    "Trainee",
    "check_settings",
    "find_run",
    "fit",
    "make_accelerator",
    "on_first_process",
    "open_run",
    "read_metrics",
    "step_generator",
    "train",
]
