"""Figures of an evaluation as the terminal and the page show them."""

from collections.abc import Mapping
from typing import Any, NamedTuple

ALL_TASKS = "all tasks"
HOW_TO_READ = (
    "Row: environment. Column: instruction. Cell: successes in the row's own task. "
    "A policy that follows instructions is high on the diagonal and low elsewhere."
)


class Cell(NamedTuple):
    """Episodes of one environment under one instruction; `matching`: the instruction of that environment."""

    successes: int
    episodes: int
    matching: bool = False

    @property
    def rate(self) -> float:
        return self.successes / self.episodes if self.episodes else 0.0

    def __str__(self) -> str:
        return f"{self.successes}/{self.episodes}"


class Confusion(NamedTuple):
    """Success under wrong instructions.

    Args:
        instructions: tasks whose instructions are the columns.
        rows: a cell per instruction for every environment; None where no episode was played.
        matching: the cell on the diagonal, by environment.
        wrong: the cells off the diagonal taken together, by environment.
    """

    instructions: list[str]
    rows: dict[str, list[Cell | None]]
    matching: dict[str, Cell | None]
    wrong: dict[str, Cell]


def task_rows(result: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Figures of every task, then of all tasks together."""
    return {**result["tasks"], ALL_TASKS: result}


def confusion(result: Mapping[str, Any]) -> Confusion | None:
    """Table of wrong instructions, its diagonal from `tasks`; None if there are none."""
    by_environment = result.get("wrong_instructions")
    if not by_environment:
        return None
    tasks = result["tasks"]
    columns = [instruction for cells in by_environment.values() for instruction in cells]
    instructions = list(dict.fromkeys([*tasks, *by_environment, *columns]))
    rows, matching, wrong = {}, {}, {}
    for task in dict.fromkeys([*tasks, *by_environment]):
        cells = {name: Cell(c["successes"], c["episodes"]) for name, c in by_environment.get(task, {}).items()}
        wrong[task] = Cell(sum(c.successes for c in cells.values()), sum(c.episodes for c in cells.values()))
        own_figures = tasks.get(task)
        matching[task] = Cell(own_figures["successes"], own_figures["episodes"], True) if own_figures else None
        rows[task] = [matching[task] if name == task else cells.get(name) for name in instructions]
    return Confusion(instructions, rows, matching, wrong)


def describe_shift(result: Mapping[str, Any]) -> str | None:
    """Difference from training, such as `lighting, camera_pose at severity 2`; None without a shift."""
    shift = result.get("shift")
    return f"{', '.join(shift['names'])} at severity {shift['severity']}" if shift else None


def percent(rate: float) -> str:
    """0.85 as 85%, with one decimal unless it is 0."""
    return f"{100 * rate:.1f}".removesuffix(".0") + "%"


def interval(ci95: tuple[float, float] | list[float]) -> str:
    """Confidence interval, such as 64.0–94.8%."""
    return f"{100 * ci95[0]:.1f}–{100 * ci95[1]:.1f}%"
