"""Demonstrations of scripted experts, collected in parallel into a LeRobotDataset."""

from .dataset import check_dataset, ensure_dataset

__all__ = ["check_dataset", "ensure_dataset"]
