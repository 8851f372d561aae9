"""Training data: datasets on disk or streamed, caches of their frames and features, and batches."""

from .batches import TrainingData, instructions_of
from .dataset_view import find_part
from .features import cache_features, cache_frontends
from .frames import cache_frames, open_dataset
from .origin import own_recording
from .selection import select
from .settings import DatasetConfig
from .streaming import open_all, open_metadata, stream_batches

__all__ = [
    "DatasetConfig",
    "TrainingData",
    "cache_features",
    "cache_frames",
    "cache_frontends",
    "find_part",
    "instructions_of",
    "open_all",
    "open_dataset",
    "open_metadata",
    "own_recording",
    "select",
    "stream_batches",
]
