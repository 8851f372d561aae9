"""Table that a run prints at its end."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..eval_results import METRICS
from .figures import HOW_TO_READ, Cell, Confusion, confusion, describe_shift, interval, percent, task_rows

_WIDEST_CONFUSION = 10  # tasks; more columns than that do not fit a terminal


def describe(result: Mapping[str, Any]) -> str:
    """Plain-text table of the result of `envs.evaluation.evaluate` or `summarise`.

    It has a row per task and one for all tasks; below, success under wrong instructions and the origin of the figures.
    """
    paragraphs = [_tasks(result)]
    if table := confusion(result):
        paragraphs.append(_confusion(table))
    if origin := _origin(result):
        paragraphs.append(origin)
    return "\n\n".join(paragraphs)


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
    *tasks, total = align([header, *rows])
    rule = "-" * len(total)
    return "\n".join([tasks[0], rule, *tasks[1:], rule, total])


def _confusion(table: Confusion) -> str:
    """Table with columns numbered like the rows; with too many columns: own instruction beside all others."""
    if len(table.instructions) > _WIDEST_CONFUSION:
        legend = "Successes in the environment's own task. A policy that follows instructions is low under wrong ones."
        header = ["environment", "own instruction", "wrong instructions"]
        rows = [[task, _show(table.matching[task]), _show(table.wrong[task])] for task in table.rows]
    else:
        legend = HOW_TO_READ
        numbers = {task: f"[{number}]" for number, task in enumerate(table.instructions, 1)}
        header = ["environment \\ instruction", *numbers.values()]
        rows = [[f"{numbers[task]} {task}", *map(_show, cells)] for task, cells in table.rows.items()]
    return "\n".join([*align([header, *rows]), legend])


def _show(cell: Cell | None) -> str:
    return "-" if cell is None else str(cell)


def _origin(result: Mapping[str, Any]) -> str:
    """Seeds, shift, environment, checkpoint and machine, as far as the result has them."""
    lines = []
    if "split" in result:
        lines.append(f"seeds: {result['split']} split, seed {result.get('seed', 0)}")
    if shift := describe_shift(result):
        lines.append(f"shift: {shift}")
    lines += [f"{key}: {result[key]}" for key in ("environment", "checkpoint", "machine") if key in result]
    return "\n".join(lines)


def align(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table: first column left-aligned, figures right-aligned."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return [
        "  ".join([first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))])
        for first, *rest in rows
    ]
