"""Table of a recording for the terminal: its size, cameras, ranges per number, instructions and faults."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from policies.data.inspection import Finding, Weight, recording_units
from policies.data.recording import Recording
from tinyvla.arms.units import Units

from .text import align

_MOST_INSTRUCTIONS, _MOST_NUMBERS = 20, 64
_MARKS = {Weight.ERROR: "error", Weight.WARNING: "warning", Weight.NOTE: "note"}


class NumberRow(NamedTuple):
    """Range of one number of a feature over all frames."""

    feature: str
    name: str
    low: float
    high: float
    mean: float
    std: float
    step: float  # largest change from one frame to the next


def number_rows(recording: Recording) -> list[NumberRow]:
    """Ranges of the numbers of state and action, then of other features."""
    rows = []
    for key, column in recording.columns.items():
        values = column.astype(float)
        steps = np.abs(np.diff(values, axis=0))
        steps[recording.starts[1:] - 1] = 0
        for i, name in enumerate(recording.names(key)[:_MOST_NUMBERS]):
            number, change = values[:, i], steps[:, i]
            figures = (number.min(), number.max(), number.mean(), number.std(), change.max(initial=0))
            rows.append(NumberRow(key, name, *map(float, figures)))
    return rows


def facts(recording: Recording) -> dict[str, str]:
    """Size, rate, robot, units and cameras of a recording."""
    frames, fps = int(recording.lengths.sum()), recording.fps
    seconds = recording.lengths / fps
    units, _ = recording_units(recording)
    cameras = [
        f"{key.removeprefix('observation.images.')} {camera['shape'][1]}x{camera['shape'][0]}"
        for key, camera in recording.cameras.items()
    ]
    return {
        "folder": str(recording.root),
        "episodes": f"{len(recording.lengths)} of {seconds.min():.1f} to {seconds.max():.1f} s, {frames} frames",
        "rate": f"{fps:g} fps",
        "robot": str(recording.info.get("robot_type") or "not named"),
        "units": "not known" if units == Units.OTHER else str(units.value),
        "cameras": ", ".join(cameras) or "none",
    }


def instruction_counts(recording: Recording) -> list[tuple[str, int]]:
    """Instructions with the number of their episodes, the most frequent first."""
    first = recording.indices["task_index"][recording.starts]
    return Counter(recording.instructions[index] for index in first).most_common()


def describe_dataset(recording: Recording, findings: Sequence[Finding]) -> str:
    """Plain-text table of a recording."""
    header = ["feature", "number", "lowest", "highest", "mean", "std", "largest step"]
    rows = [[row.feature, row.name, *(f"{figure:.4g}" for figure in row[2:])] for row in number_rows(recording)]
    counts = instruction_counts(recording)
    instructions = [f"{count:>4} x {text!r}" for text, count in counts[:_MOST_INSTRUCTIONS]]
    if len(counts) > _MOST_INSTRUCTIONS:
        instructions.append(f"     and {len(counts) - _MOST_INSTRUCTIONS} more instructions")
    faults = [f"{_MARKS[finding.weight]}: {finding}" for finding in findings] or ["nothing wrong"]
    paragraphs = [
        [f"{name + ':':<10} {fact}" for name, fact in facts(recording).items()],
        align([header, *rows]),
        ["instructions, with their episodes", *instructions],
        faults,
    ]
    return "\n\n".join("\n".join(paragraph) for paragraph in paragraphs)
