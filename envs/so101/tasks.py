"""Tasks of the SO-101: their instructions and suites. `simulation.py` has their randomisation and success."""

import functools
from collections.abc import Iterable, Sequence
from pathlib import Path

from tinyvla.errors import UserError

from ..task_suites import expand_tasks, read_paraphrases

# All tasks share one scene, a red cube and a blue disc on a table, so that only the instruction tells them apart. No
# instruction names a colour, because the shift object_colour changes them.
INSTRUCTIONS: dict[str, str] = {
    "reach": "move the gripper to the disc",
    "pick-lift": "pick up the cube and lift it",
    "pick-place": "pick up the cube and put it on the disc",
    "push": "push the cube onto the disc",
}
SUITES: dict[str, list[str]] = {"default": ["reach", "pick-lift"], "all": list(INSTRUCTIONS)}

_LEAST_SIDE, _MOST_SIDE = 0.015, 0.06  # metres that the gripper of the model can hold

paraphrases = functools.partial(read_paraphrases, Path(__file__).with_name("paraphrases.yaml"))


def resolve_tasks(names: str | Iterable[str]) -> list[str]:
    """Task names without repetition, suites expanded. Raises UserError for an unknown name, with the nearest."""
    return expand_tasks(names, INSTRUCTIONS, SUITES, "SO-101")


def check_cube_sides(sides: Sequence[float] | None) -> None:
    """Raise UserError unless the cube's sides, smallest and largest in metres, fit the gripper."""
    if sides is not None and (len(sides) != 2 or not _LEAST_SIDE <= sides[0] <= sides[1] <= _MOST_SIDE):
        raise UserError(
            f"cube_sides={list(sides)} does not fit the gripper; give [smallest, largest] in metres, between "
            f"{_LEAST_SIDE} and {_MOST_SIDE}"
        )
