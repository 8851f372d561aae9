"""Check of the datasets that a run is to be trained with, before anything is written."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tinyvla.arms.units import degrees_per_unit

from .inspection import Finding, check_recording
from .recording import Recording, read_recording
from .settings import DatasetConfig

_CAMERAS = "observation.images."


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


def folders_of(dataset: DatasetConfig) -> list[Path]:
    """Folders on this disk of the datasets that settings name; none if it is on the hub."""
    return [Path(root) for root in ([dataset.root] if isinstance(dataset.root, str) else dataset.root or [])]


def renamed(features: Mapping[str, Any], dataset: DatasetConfig) -> dict[str, Any]:
    """Features, or anything else by key, under the keys of `dataset.rename`; cameras may be named without prefix."""
    names = vars(dataset).get("rename") or {}
    keys = dict(names) | {_CAMERAS + old: _CAMERAS + new for old, new in names.items() if _CAMERAS + old in features}
    return {keys.get(key, key): feature for key, feature in features.items()}


def _selected(recording: Recording, dataset: DatasetConfig, first: int) -> Recording:
    """The part of a recording that a run uses, under the names that the run gives it.

    Args:
        first: number of the recording's first episode among the episodes of all recordings.
    """
    features = renamed(recording.features, dataset)
    if (cameras := vars(dataset).get("cameras")) is not None:
        chosen = {_CAMERAS + camera for camera in cameras} | set(cameras)
        features = {key: f for key, f in features.items() if f["dtype"] not in ("image", "video") or key in chosen}
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
    settings, numbers = vars(dataset), recording.numbers
    used = np.ones(len(numbers), bool)
    if settings.get("episodes") is not None:
        used &= np.isin(numbers, _expand(settings["episodes"]))
    if settings.get("exclude_episodes") is not None:
        used &= ~np.isin(numbers, _expand(settings["exclude_episodes"]))
    if settings.get("tasks") is not None:
        tasks = np.array([recording.instructions[i] for i in recording.indices["task_index"][recording.starts]])
        used &= np.isin(tasks, settings["tasks"])
    return used


def _expand(episodes: Iterable[int | str]) -> list[int]:
    """Numbers of episodes, from numbers and ranges such as "5-9"."""
    numbers: list[int] = []
    for entry in episodes:
        low, _, high = str(entry).partition("-")
        numbers += range(int(low), int(high or low) + 1)
    return numbers
