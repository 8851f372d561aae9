"""Training: one resumable loop for policies and front-ends, and the run folder that it leaves."""

from .device import device_of, make_accelerator, on_first_process
from .loop import Stopped, fit
from .run_folder import alone_in_run, find_run, open_run
from .sample_order import sample_order
from .settings import TrainerConfig
from .tracking import Tracker, read_metrics
from .trainable import Batch, Trainable, step_generator

__all__ = [
    "Batch",
    "Stopped",
    "Tracker",
    "Trainable",
    "TrainerConfig",
    "alone_in_run",
    "device_of",
    "find_run",
    "fit",
    "make_accelerator",
    "on_first_process",
    "open_run",
    "read_metrics",
    "sample_order",
    "step_generator",
]
