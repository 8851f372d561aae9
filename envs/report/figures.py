"""The figures of an evaluation in the form that both the terminal and the page show."""

from collections.abc import Mapping
from typing import Any, NamedTuple

ALL_TASKS = "all tasks"
HOW_TO_READ = (
    "Row: environment. Column: instruction given. Cell: how often the row's own task was done. "
    "A policy that listens is high on the diagonal, low elsewhere."
)


class Cell(NamedTuple):
    """Episodes of one environment under one instruction; `own` where that is the environment's own."""

    successes: int
    episodes: int
    own: bool = False

    @property
    def rate(self) -> float:
        return self.successes / self.episodes if self.episodes else 0.0

    def __str__(self) -> str:
        return f"{self.successes}/{self.episodes}"


class Confusion(NamedTuple):
    """What wrong instructions do. A row holds a cell for each of `told`, None where no episode was run.

    own: for each row, the cell on the diagonal. others: those off it, taken together.
    """

    told: list[str]
    rows: dict[str, list[Cell | None]]
    own: dict[str, Cell | None]
    others: dict[str, Cell]


def task_rows(result: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Figures of every task, then of all together."""
    return {**result["tasks"], ALL_TASKS: result}


def confusion(result: Mapping[str, Any]) -> Confusion | None:
    """The table of wrong instructions, its diagonal from `tasks`; None if there were none."""
    wrong = result.get("wrong_instructions")
    if not wrong:
        return None
    tasks = result["tasks"]
    told = list(dict.fromkeys([*tasks, *wrong, *(other for cells in wrong.values() for other in cells)]))
    rows, own, others = {}, {}, {}
    for task in dict.fromkeys([*tasks, *wrong]):
        cells = {other: Cell(c["successes"], c["episodes"]) for other, c in wrong.get(task, {}).items()}
        others[task] = Cell(sum(c.successes for c in cells.values()), sum(c.episodes for c in cells.values()))
        own[task] = Cell(tasks[task]["successes"], tasks[task]["episodes"], own=True) if task in tasks else None
        rows[task] = [own[task] if other == task else cells.get(other) for other in told]
    return Confusion(told, rows, own, others)


def shift_in_words(result: Mapping[str, Any]) -> str | None:
    """What was different from training, as `lighting, camera_pose at severity 2`; None if nothing was."""
    shift = result.get("shift")
    return f"{', '.join(shift['names'])} at severity {shift['severity']}" if shift else None


def percent(rate: float) -> str:
    """0.85 as 85%; one decimal only where it says something."""
    return f"{100 * rate:.1f}".removesuffix(".0") + "%"


def interval(ci95: tuple[float, float] | list[float]) -> str:
    """A confidence interval, as 64.0–94.8%."""
    return f"{100 * ci95[0]:.1f}–{100 * ci95[1]:.1f}%"
