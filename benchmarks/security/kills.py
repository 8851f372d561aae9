"""kill -9 before every file-system call of a save, and of collecting, caching, evaluating and reporting.

    python -m benchmarks.security.kills points=20            # per kind; a save is killed at every call

Needs strace. After each kill the same work is done again and compared with undisturbed work, see `interrupted_work`.
Writes benchmarks/results/kills.{json,md}.
"""

import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.machine import Machine, keep, markdown

from .interrupted_work import (
    CacheFeatures,
    CacheFrames,
    Collect,
    Evaluate,
    InterruptedWork,
    Report,
    Save,
    write_policy,
)
from .kill_points import KillPoint, find_kill_points, kill_at, run_forked

TITLES = {"name": "work", "calls": "calls", "killed": "killed at", "good": "as undisturbed", "faults": "faults"}


def measure(work: InterruptedWork, points: int | None) -> dict[str, Any]:
    """Kill work at `points` of its calls, evenly spread (None: at all), and do it again.

    Returns the numbers of calls, of kills, and of second attempts that came to what undisturbed work comes to.
    """
    log = work.whole.with_name("log")
    work.prepare(work.whole)
    calls = find_kill_points(lambda gate: work.do(work.whole, gate), log)
    killed, good, faults = 0, 0, []
    for point in tqdm(_spread(calls, points), desc=work.name, unit="kill"):
        fault = _kill_and_repeat(work, point, log)
        killed += fault is not None
        good += fault == ""
        faults += [f"{point.text}: {fault}"] if fault else []
    return {"name": work.name, "calls": len(calls), "killed": killed, "good": good, "faults": faults}


def _kill_and_repeat(work: InterruptedWork, point: KillPoint, log: Path) -> str | None:
    """The fault after a kill, "" if there is none; None if the call was not made this time."""
    folder = Path(tempfile.mkdtemp(dir=work.whole.parent)) / "killed"
    try:
        work.prepare(folder)
        if not kill_at(lambda gate: work.do(folder, gate), point, log):
            return None
        before = work.check_killed(folder)
        if status := run_forked(lambda gate: work.do(folder, gate), log):
            return f"the second attempt ended with {status}: {log.read_text().strip().splitlines()[-1]}"
        work.check(folder, before)
    except AssertionError as error:
        return str(error) or "check failed"
    finally:
        shutil.rmtree(folder.parent)
    return ""


def _spread(calls: Sequence[KillPoint], points: int | None) -> list[KillPoint]:
    if points is None or points >= len(calls):
        return list(calls)
    return [calls[round(i * (len(calls) - 1) / (points - 1))] for i in range(points)]


def all_work(base: Path, points: int) -> list[dict[str, Any]]:
    """Results of every kind of work."""
    results = [measure(Save(base), None)]
    results += [measure(Collect(base), points)]
    results += [measure(CacheFrames(base), points), measure(CacheFeatures(base), points)]
    if run_forked(lambda gate: write_policy(base / "policy"), base / "log"):
        raise RuntimeError((base / "log").read_text())
    return [*results, measure(Evaluate(base), points), measure(Report(base), points)]


def main() -> None:
    options = dict(argument.split("=", 1) for argument in sys.argv[1:])
    with tempfile.TemporaryDirectory() as base:
        results = all_work(Path(base), int(options.get("points", 20)))
    machine = Machine()
    rows = [result | {"faults": len(result["faults"])} for result in results]
    text = f"""# Work that is killed and done again

`python -m benchmarks.security.kills`, {machine.summary}. SIGKILL before a file-system call that changes something
(strace's fault injection); then the same work is done again. "As undisturbed": right best policy after the kill and at
the end, same curve and state bit for bit, same files and no others, nothing finished was done twice.

{markdown(rows, TITLES)}"""
    keep("kills", {"machine": machine.summary, "results": results}, text)
    print(text, json.dumps([result["faults"] for result in results], indent=1), sep="\n")


if __name__ == "__main__":
    main()
