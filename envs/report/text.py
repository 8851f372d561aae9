"""The table that a run prints when it ends."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..eval_results import METRICS
from .figures import HOW_TO_READ, Cell, Confusion, confusion, interval, percent, shift_in_words, task_rows

_WIDEST_CONFUSION = 10  # tasks; more columns than that do not fit a terminal


def describe(result: Mapping[str, Any]) -> str:
    """A plain-text table of what `envs.evaluation.evaluate` or `summarise` returned.

    A row for each task and one for all; below, what wrong instructions did, and where the figures come from.
    """
    parts = [_tasks(result)]
    if table := confusion(result):
        parts.append(_confusion(table))
    if origin := _origin(result):
        parts.append(origin)
    return "\n\n".join(parts)


def _tasks(result: Mapping[str, Any]) -> str:
    header = ["task", "success", "", "95% interval", *(metric.title for metric in METRICS)]
    rows = [
        [
            task,
            f"{figures['successes']}/{figures['episodes']}",
            percent(figures["success_rate"]),
            interval(figures["ci95"]),
            *(metric.text(figures) for metric in METRICS),
        ]
        for task, figures in task_rows(result).items()
    ]
    *tasks, everything = _align([header, *rows])
    rule = "-" * len(everything)
    return "\n".join([tasks[0], rule, *tasks[1:], rule, everything])


def _confusion(table: Confusion) -> str:
    """Columns are numbered like the rows. Where they are too many: own instruction against all others."""
    if len(table.told) > _WIDEST_CONFUSION:
        legend = (
            "How often the environment's own task was done. A policy that listens is low under others' instructions."
        )
        header = ["environment", "own instruction", "others' instructions"]
        rows = [[task, _show(table.own[task]), _show(table.others[task])] for task in table.rows]
    else:
        legend = HOW_TO_READ
        numbers = {task: f"[{number}]" for number, task in enumerate(table.told, 1)}
        header = ["environment \\ told", *numbers.values()]
        rows = [[f"{numbers[task]} {task}", *map(_show, cells)] for task, cells in table.rows.items()]
    return "\n".join([*_align([header, *rows]), legend])


def _show(cell: Cell | None) -> str:
    return "-" if cell is None else str(cell)


def _origin(result: Mapping[str, Any]) -> str:
    """Which seeds, which shift, which checkpoint, which machine, as far as the result says."""
    lines = []
    if "split" in result:
        lines.append(f"seeds: {result['split']} split, seed {result.get('seed', 0)}")
    if shift := shift_in_words(result):
        lines.append(f"shift: {shift}")
    lines += [f"{key}: {result[key]}" for key in ("checkpoint", "machine") if key in result]
    return "\n".join(lines)


def _align(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines: the first column to the left, figures to the right."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return [
        "  ".join([first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))])
        for first, *rest in rows
    ]
