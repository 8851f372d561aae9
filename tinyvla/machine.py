"""The machine that a process runs on."""

import os


def count_cores() -> int:
    """CPU cores that this process may use; all of the machine's where the system cannot tell, as on macOS."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
