"""Offline evaluation: a policy's actions beside recorded ones, on episodes that it was not trained on."""

from .evaluation import MEASURE, OFFLINE, POLICY, OfflineOptions, evaluate_offline, offline_validator
from .held_out import describe_held_out, held_out_episodes, read_held_out, write_held_out

__all__ = [
    "MEASURE",
    "OFFLINE",
    "POLICY",
    "OfflineOptions",
    "describe_held_out",
    "evaluate_offline",
    "held_out_episodes",
    "offline_validator",
    "read_held_out",
    "write_held_out",
]
