"""Names of tasks and suites, and other wordings of instructions, shared by all simulators."""

import functools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from tinyvla.errors import UserError, nearest_names


def expand_tasks(
    names: str | Iterable[str], tasks: Iterable[str], suites: Mapping[str, list[str]], simulator: str
) -> list[str]:
    """Task names in the order given, suites expanded, each once.

    Raises UserError for an unknown name, naming the nearest, and for no names. simulator: its name in messages.
    """
    tasks, chosen = list(tasks), list[str]()
    example = next((task for task in tasks if task.startswith("reach")), tasks[0])
    for name in [names] if isinstance(names, str) else names:
        if name not in suites and name not in tasks:
            near = nearest_names(name, [*suites, *tasks]) or [*suites, example]
            raise UserError(
                f"unknown {simulator} task or suite '{name}' in env.tasks; did you mean {' or '.join(near)}?"
            )
        chosen += [task for task in suites.get(name, [name]) if task not in chosen]
    if not chosen:
        raise UserError(f"env.tasks is empty; name a task ({example}) or a suite ({', '.join(list(suites)[:3])})")
    return chosen


@functools.cache
def _load(file: Path) -> dict[str, Any]:
    return yaml.safe_load(file.read_text())


def read_paraphrases(file: Path, task: str, severity: int | None) -> list[str]:
    """Other wordings of a task's instruction.

    file: YAML with {task: {training: [...], held_out: {1: [...], 2: [...], 3: [...]}}}. severity: that of the shift
    `instruction` in evaluation; None: the wordings that training may use.
    """
    paraphrases = _load(file)[task]
    return paraphrases["training"] if severity is None else paraphrases["held_out"][severity]
