"""Training data: datasets on disk or streamed, caches of their frames and features, and batches."""

from .batches import TrainingData, instructions_of
from .features import cache_features, cache_frontends
from .frames import cache_frames, open_dataset
from .settings import DatasetConfig
from .streaming import open_metadata, stream_batches

__all__ = [
    "DatasetConfig",
    "TrainingData",
    "cache_features",
    "cache_frames",
    "cache_frontends",
    "instructions_of",
    "open_dataset",
    "open_metadata",
    "stream_batches",
]
