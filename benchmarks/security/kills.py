"""kill -9 before every file-system call of a save, and of collecting, caching, evaluating and reporting.

    python -m benchmarks.security.kills points=20            # per kind; a save is killed at every call
    python -m benchmarks.security.kills work=save            # one kind; the results of the others are kept

Needs strace. After each kill the same work is done again and compared with undisturbed work, see `interrupted_work`.
Writes benchmarks/results/kills.{json,md}.
"""

import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.machine import Machine, keep, markdown, read_kept

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
from .kill_points import KillPoint, Work, find_kill_points, kill_at, run_forked

TITLES = {"name": "work", "calls": "calls", "killed": "killed at", "good": "as undisturbed", "faults": "faults"}
_TEXT = """# Work that is killed and done again

`python -m benchmarks.security.kills`, {machine}. SIGKILL before a file-system call that changes something (strace's
fault injection); then the same work is done again. "As undisturbed": right best policy after the kill and at the end,
same curve and state bit for bit, same files and no others (an empty lock file may stay), nothing finished was done
twice.

{table}"""


def measure(work: InterruptedWork, points: int | None) -> dict[str, Any]:
    """Kill work at `points` of its calls, evenly spread (None: at all), and do it again.

    Returns the numbers of calls, of kills, and of second attempts that came to what undisturbed work comes to.
    """
    log = work.whole.with_name("log")
    work.prepare(work.whole)
    calls = find_kill_points(lambda gate: work.do(work.whole, gate), log)
    killed, good, faults = 0, 0, []
    for point in _spread(calls, points):  # no progress bar: its thread does not go with forking
        fault = _kill_and_repeat(work, point, log)
        killed += fault is not None
        good += fault == ""
        faults += [f"{point.text}: {fault}"] if fault else []
    print(f"{work.name}: {good} of {killed}", file=sys.stderr, flush=True)
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
            lines = log.read_text().strip().splitlines()
            reason = [line for line in lines if line.startswith("error: ")] or lines
            return f"the second attempt ended with {status}: {reason[-1]}"
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


KINDS = {work.name: work for work in (Save, Collect, CacheFrames, CacheFeatures, Evaluate, Report)}


def measure_kind(kind: str, points: int) -> dict[str, Any]:
    """Result of one kind of work, with the dataset and the policy that it needs made first."""
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        if kind not in (Save.name, Collect.name):
            demonstrations = Collect(base)
            demonstrations.prepare(demonstrations.whole)
            _do_once(lambda gate: demonstrations.do(demonstrations.whole, gate), base / "log")
        if kind in (Evaluate.name, Report.name):
            _do_once(lambda gate: write_policy(base / "policy"), base / "log")
        return measure(KINDS[kind](base), None if kind == Save.name else points)


def _do_once(work: Work, log: Path) -> None:
    if run_forked(work, log):
        raise RuntimeError(log.read_text())


def main() -> None:
    options = dict(argument.split("=", 1) for argument in sys.argv[1:])
    points, kinds = int(options.get("points", 20)), [options["work"]] if "work" in options else list(KINDS)
    machine = Machine()
    conditions = {"machine": machine.summary, "points": points}
    results = read_kept("kills", conditions).get("results", {})
    for kind in kinds:
        results[kind] = measure_kind(kind, points)
        rows = [result | {"faults": len(result["faults"])} for result in results.values()]
        text = _TEXT.format(machine=machine.summary, table=markdown(rows, TITLES))
        keep("kills", {"asked": conditions, "results": results}, text)
    print(text, *(fault for result in results.values() for fault in result["faults"]), sep="\n")


if __name__ == "__main__":
    main()
