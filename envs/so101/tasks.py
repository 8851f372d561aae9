"""Tasks of the SO-101: their instructions and suites. `simulation.py` has their randomisation and success."""

import functools
from collections.abc import Iterable
from pathlib import Path

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


paraphrases = functools.partial(read_paraphrases, Path(__file__).with_name("paraphrases.yaml"))


def resolve_tasks(names: str | Iterable[str]) -> list[str]:
    """Task names without repetition, suites expanded. Raises UserError for an unknown name, with the nearest."""
    return expand_tasks(names, INSTRUCTIONS, SUITES, "SO-101")
