"""The machine that a process runs on."""

import os

from .errors import UserError


def count_cores() -> int:
    """CPU cores that this process may use; all of the machine's where the system cannot tell, as on macOS."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_workers(workers: int | str | None, name: str = "workers") -> None:
    """Raise UserError unless a number of worker processes is 1 or more, "auto" or None."""
    if workers not in (None, "auto") and not (str(workers).isdecimal() and int(workers) >= 1):
        raise UserError(f"{name} is {workers!r}; use auto or a number from 1")
