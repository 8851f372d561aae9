"""Figures of the pages, read from benchmarks/results by name and path, as text.

A figure is named by its file and the path in it, and optionally ` = ` and a Python format string:

    mt50 mean_of_groups                                      -> 78.0
    own_arm webcams = {successes} of {judged} ({ci95:.0%})   -> 15 of 50 (19–44%)
    stalls rows/bus=ours,fault=stall/readings = {:,}         -> 6,372

Steps of a path are separated by `/`: a key, the number of an item, or the values that select an item of a list. Sums
and shares that benchmarks/derived_figures.py computes from a file have paths like its own entries. Braces name entries
of a dict. A pair of numbers is an interval.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.derived_figures import DERIVED, FILES
from benchmarks.result_files import read_result
from tinyvla.errors import UserError, did_you_mean

LOOKUP_ERRORS = (LookupError, ValueError, TypeError, AttributeError)  # of a result in another form


class Interval(tuple[float, float]):
    """A pair of numbers that is formatted as a range, with the unit once: 19–44%, −0.5 to 1.9."""

    def __format__(self, spec: str) -> str:
        low, high = (format(bound, spec) for bound in self)
        if low.endswith("%"):
            low = low[:-1]
        return f"{low} to {high}".replace("-", "−") if self[0] < 0 else f"{low}–{high}"


def show_figure(source: str) -> str:
    """Text of a figure. Raises UserError with one line if its file, path or format string does not fit."""
    place, _, template = source.strip().partition(" = ")
    name, _, path = place.strip().partition(" ")
    value = find_value(name, path.strip())
    entries = value if isinstance(value, Mapping) else {}
    try:
        return (template or "{}").format(value, **entries)
    except LOOKUP_ERRORS as error:
        raise UserError(f"'{template}' does not fit {place} ({type(error).__name__}: {error})") from error


def find_value(name: str, path: str) -> Any:
    """Value at a path of a result, with pairs of numbers as intervals."""
    value: Any = read_result(FILES.get(name, name))
    if name in DERIVED:
        try:
            value = {**value, **DERIVED[name](value)}
        except LOOKUP_ERRORS as error:
            fault = f"{type(error).__name__}: {error}"
            raise UserError(f"benchmarks/derived_figures.py does not fit the result {name} ({fault})") from error
    for step in path.split("/") if path else []:
        value = _enter(value, step, f"{name} {path}")
    return _with_intervals(value)


def _enter(value: Any, step: str, place: str) -> Any:
    """Entry of a dict or item of a list that a step of a path names."""
    if isinstance(value, Mapping):
        if step not in value:
            raise UserError(f"there is no '{step}' in {place}; {did_you_mean(step, value)}")
        return value[step]
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise UserError(f"'{step}' in {place} goes on behind a single value; end the path before it")
    if step.isdigit() and int(step) < len(value):
        return value[int(step)]
    conditions = [condition.partition("=")[::2] for condition in step.split(",")]
    for item in value:
        if isinstance(item, Mapping) and all(str(item.get(key)) == text for key, text in conditions):
            return item
    raise UserError(f"there is no item '{step}' in {place}")


def _with_intervals(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _with_intervals(item) for key, item in value.items()}
    if isinstance(value, list):
        if len(value) == 2 and all(isinstance(bound, int | float) for bound in value):
            return Interval(value)
        return [_with_intervals(item) for item in value]
    return value
