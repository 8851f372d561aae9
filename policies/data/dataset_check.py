"""Check of the datasets that a run is to be trained with, before anything is written."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from tinyvla.arms.units import degrees_per_unit

from .inspection import Finding, check_recording
from .recording import Recording, read_recording
from .selection import FRAME_COLUMNS, Source, select
from .settings import DatasetConfig
from .streaming import open_metadata


def check_dataset(dataset: DatasetConfig, roots: Sequence[Path]) -> list[Finding]:
    """Warnings about the recordings in `roots`, as far as the run uses them.

    Raises UserError for the first fault that they cannot be trained with.
    """
    sources = {}
    if dataset.is_selection:
        chosen = select(dataset, [open_metadata(None, str(root)) for root in roots])
        sources = {Path(source.meta.root): source for source in chosen}
    findings, first = [], 0
    for root in roots:
        recording = read_recording(root)
        count = len(recording.lengths)
        if dataset.is_selection:
            if root not in sources:  # none of its episodes is used
                first += count
                continue
            recording = _part(recording, sources[root])
        recording = replace(recording, numbers=recording.numbers + first)
        first += count
        if dataset.calibration:
            for key in recording.columns:
                degrees_per_unit(Path(dataset.calibration), recording.names(key))
        findings += check_recording(recording, has_calibration=dataset.calibration is not None)
    return findings


def _part(recording: Recording, source: Source) -> Recording:
    """The part of a recording that a run uses, under the names that the run gives it."""
    names = {column: column for column in FRAME_COLUMNS} | dict(source.names)

    def renamed[T](by_key: Mapping[str, T]) -> dict[str, T]:
        return {names[key]: value for key, value in by_key.items() if key in names}

    part = replace(
        recording,
        info={**recording.info, "features": renamed(recording.features)},
        stats=renamed(recording.stats),
        columns=renamed(recording.columns),
    )
    return part.only(np.isin(recording.numbers, source.episodes))
