"""A program killed with SIGKILL before a chosen file-system call, by strace; each in a process forked from this one."""

import contextlib
import faulthandler
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tinyvla.errors import UserError

# Calls that change files or folders, or let the disk hold them. The state between two of them is that before the later.
CALLS = (
    *("openat", "mkdir", "mkdirat", "rename", "renameat", "renameat2", "unlink", "unlinkat", "rmdir", "symlink"),
    *("symlinkat", "link", "linkat", "fsync", "fdatasync", "ftruncate", "write", "writev", "pwrite64", "flock"),
)
_LINE = re.compile(r"(?:\d+ +)?(\w+)\((.*)")
_TERMINAL = re.compile(r"[12],")  # first argument of a write

_LIMIT_S = 120  # of one attempt

type Gate = Callable[[], None]
type Work = Callable[[Gate], None]


class KillPoint(NamedTuple):
    """The occurrence `number` of a call, from 1; `text` is the call as strace prints it."""

    call: str
    number: int
    text: str


def find_kill_points(work: Work, log: Path) -> list[KillPoint]:
    """Every file-system call that `work` makes after its gate in its main thread, in order, except plain reading."""
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder, "trace")
        status = run_forked(work, log, ["-o", str(trace), "-e", f"trace={','.join(CALLS)}"])
        if status != 0:
            raise RuntimeError(f"the undisturbed work ended with {status}; see {log}")
        counts: Counter[str] = Counter()
        points = []
        for line in trace.read_text(errors="replace").splitlines():
            if match := _LINE.match(line):
                call, arguments = match.groups()
                counts[call] += 1
                reads = call == "openat" and not re.search("O_WRONLY|O_RDWR|O_CREAT", arguments)
                if not reads and not (call == "write" and _TERMINAL.match(arguments)):
                    points.append(KillPoint(call, counts[call], f"{call}({arguments[:150]}"))
    return points


def kill_at(work: Work, point: KillPoint, log: Path) -> bool:
    """Run `work` and kill it before the call; False if it ended without making it."""
    inject = f"inject={point.call}:signal=SIGKILL:when={point.number}"
    status = run_forked(work, log, ["-o", os.devnull, "-e", f"trace={point.call}", "-e", inject])
    return status == -signal.SIGKILL


def run_forked(work: Work, log: Path, strace: list[str] | None = None) -> int:
    """Run `work` in a child process, under strace from its gate on; returns its exit code, or minus its signal.

    log: file for the child's output.
    """
    if strace and not shutil.which("strace"):
        raise UserError("strace is not installed; run apt-get install strace")
    (ready, tell), (wait, go) = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        _work_in_child(work, log, tell, wait)
    os.close(tell)
    os.close(wait)
    tracer = None
    if os.read(ready, 1) and strace:
        tracer = subprocess.Popen(["strace", "-p", str(child), *strace], stderr=subprocess.PIPE, text=True)
        assert tracer.stderr
        if "attached" not in (line := tracer.stderr.readline()):
            os.kill(child, signal.SIGKILL)
            raise RuntimeError(f"strace cannot attach: {line.strip()}")
    with contextlib.suppress(BrokenPipeError):  # of a child that ended before its gate
        os.write(go, b"g")
    os.close(go)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.close(ready)
    if tracer:
        tracer.communicate()
    return status


def _work_in_child(work: Work, log: Path, tell: int, wait: int) -> None:
    status = 1
    try:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        faulthandler.dump_traceback_later(_LIMIT_S, exit=True, file=output)
        passed = False

        def gate() -> None:
            nonlocal passed
            if not passed:
                passed = True
                os.write(tell, b"r")
                os.read(wait, 1)

        work(gate)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
