"""The tasks of the SO-101: their instructions, and the suites that group them."""

import functools
from collections.abc import Iterable
from pathlib import Path

from ..task_suites import expand_tasks, read_paraphrases

# All in one scene, a red cube and a blue disc on a table, so that only the instruction tells which. No colours: they
# are what the shift object_colour changes.
INSTRUCTIONS: dict[str, str] = {
    "reach": "move the gripper to the disc",
    "pick-lift": "pick up the cube and lift it",
    "pick-place": "pick up the cube and put it on the disc",
    "push": "push the cube onto the disc",
}
SUITES: dict[str, list[str]] = {"default": ["reach", "pick-lift"], "all": list(INSTRUCTIONS)}


paraphrases = functools.partial(read_paraphrases, Path(__file__).with_name("paraphrases.yaml"))


def resolve_tasks(names: str | Iterable[str]) -> list[str]:
    """Task names in the order given, suites expanded, each once. Unknown names raise a UserError with the nearest."""
    return expand_tasks(names, INSTRUCTIONS, SUITES, "SO-101")
