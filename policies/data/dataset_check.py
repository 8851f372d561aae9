"""Check of the datasets that a run is to be trained with, before anything is written."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tinyvla.arms.units import degrees_per_unit

from .inspection import Finding, check_recording
from .recording import Recording, read_recording
from .selection import episode_numbers
from .settings import DatasetConfig

_CAMERAS = "observation.images."
_MOST = 1 << 30  # episodes; their real number has been checked by then


def check_dataset(dataset: DatasetConfig, roots: Sequence[Path]) -> list[Finding]:
    """Warnings about the recordings in `roots`, as far as the run uses them.

    Raises UserError for the first fault that they cannot be trained with.
    """
    findings, first = [], 0
    for root in roots:
        recording = read_recording(root)
        count = len(recording.lengths)
        recording = _selected(recording, dataset, first)
        first += count
        if dataset.calibration:
            for key in recording.columns:
                degrees_per_unit(Path(dataset.calibration), recording.names(key))
        findings += check_recording(recording, has_calibration=dataset.calibration is not None)
    return findings


def renamed(features: Mapping[str, Any], dataset: DatasetConfig) -> dict[str, Any]:
    """Features, or anything else by key, under the keys of `dataset.rename`; cameras may be named without prefix."""
    keys = {key: key for key in features}
    for old, new in (dataset.rename or {}).items():
        for key in (old, _CAMERAS + old):
            if key in keys:
                is_camera = key.startswith(_CAMERAS) and not new.startswith(_CAMERAS)
                keys[key] = _CAMERAS + new if is_camera else new
    return {keys[key]: feature for key, feature in features.items()}


def _selected(recording: Recording, dataset: DatasetConfig, first: int) -> Recording:
    """The part of a recording that a run uses, under the names that the run gives it.

    Args:
        first: number of the recording's first episode among the episodes of all recordings.
    """
    features = dict(recording.features)
    if (cameras := dataset.cameras) is not None:
        chosen = {_CAMERAS + camera for camera in cameras} | set(cameras)
        new_keys = dict(zip(features, renamed(features, dataset), strict=True))
        unused = {key for key in recording.cameras if not {key, new_keys[key]} & chosen}
        features = {key: feature for key, feature in features.items() if key not in unused}
    features = renamed(features, dataset)
    renamed_recording = replace(
        recording,
        info={**recording.info, "features": features},
        stats=renamed(recording.stats, dataset),
        columns=renamed(recording.columns, dataset),
        numbers=recording.numbers + first,
    )
    return renamed_recording.only(_used(renamed_recording, dataset))


def _used(recording: Recording, dataset: DatasetConfig) -> np.ndarray:
    """Mask of the episodes that a run uses, (E,)."""
    numbers = recording.numbers
    used = np.ones(len(numbers), bool)
    if dataset.episodes is not None:
        used &= np.isin(numbers, list(episode_numbers("dataset.episodes", dataset.episodes, _MOST)))
    if dataset.exclude_episodes is not None:
        used &= ~np.isin(numbers, list(episode_numbers("dataset.exclude_episodes", dataset.exclude_episodes, _MOST)))
    if dataset.tasks is not None:
        tasks = np.array([recording.instructions[i] for i in recording.indices["task_index"][recording.starts]])
        used &= np.isin(tasks, dataset.tasks)
    return used
