"""Work in a process forked from this one, with bounds on its time and memory; what it touches is recorded."""

import contextlib
import gc
import importlib
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

_WRITE = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = {  # audit events of changes, with the indices of the paths among their arguments
    **dict.fromkeys(("os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.chmod", "os.chown"), (0,)),
    **dict.fromkeys(("os.rename", "os.link"), (0, 1)),
    "os.symlink": (1,),
}
_PROGRAMS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "socket.connect")
_FAULT_LINES = 400  # bytes of an event in the log


class Ending(NamedTuple):
    """The end of a forked piece of work.

    code: exit code, negative for a signal, None if it was ended after its time. errors: what it wrote to stderr.
    seconds: it took. memory_mb: peak of its memory, the parent's included. events: programs that it started, and files
    that it wrote, or read where that is forbidden, one a line.
    """

    code: int | None
    errors: str
    seconds: float
    memory_mb: float
    events: list[str]


class Place(NamedTuple):
    """Folders of a case. work: where it may write; others of the same parent must stay as they are."""

    base: Path

    @property
    def work(self) -> Path:
        return self.base / "work"

    @property
    def outside(self) -> Path:
        """A folder that nothing of the work may lead to."""
        return self.base / "outside"

    @property
    def temporary(self) -> Path:
        return self.base / "temporary"


def run_isolated(
    work: Callable[[], None],
    place: Place,
    seconds: float,
    memory_mb: float,
    allowed: Sequence[Path] = (),
) -> Ending:
    """Run `work` in a forked process, in the folder `place.work`, and wait for its end.

    Args:
        work: may raise SystemExit; any other exception is a traceback, as in a program.
        place: its folders.
        seconds: after which the process and its children are killed.
        memory_mb: address space that it may have beyond that of this process.
        allowed: folders, besides those of the place, in which libraries may write.
    """
    errors, events = place.base / "errors", place.base / "events"
    gc.collect()
    gc.freeze()  # else the child's collections copy every page
    began = time.monotonic()
    process = os.fork()
    if process == 0:
        code = 1
        try:
            _enter(place, errors, memory_mb)
            _watch(place, os.open(events, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), allowed)
            work()
            code = 0
        except SystemExit as leaving:
            code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(OSError):
                (place.temporary / "modules").write_text("\n".join(sys.modules))
            os._exit(code)
    exit_code, usage = _wait(process, began + seconds)
    return Ending(
        exit_code,
        errors.read_text(errors="replace") if errors.exists() else "",
        round(time.monotonic() - began, 2),
        round(usage.ru_maxrss / 1024, 1),
        sorted(set(events.read_text(errors="replace").splitlines())) if events.exists() else [],
    )


def import_as(place: Place) -> None:
    """Import here what the work imported in its own process, so that the next ones need not."""
    names = (place.temporary / "modules").read_text().split() if (place.temporary / "modules").exists() else []
    for name in names:
        if name not in sys.modules and not name.startswith(("__", "torch._dynamo", "torch._inductor")):
            with contextlib.suppress(Exception):
                importlib.import_module(name)


def _enter(place: Place, errors: Path, memory_mb: float) -> None:
    os.setsid()
    place.temporary.mkdir(exist_ok=True)
    os.environ["TMPDIR"] = tempfile.tempdir = str(place.temporary)
    os.chdir(place.work)
    os.fsync = lambda fd: None  # takes most of the time of a small file
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    os.dup2(os.open(os.devnull, os.O_RDWR), 1)
    os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), 2)
    sys.stdin, sys.stdout, sys.stderr = (os.fdopen(n, "r" if n == 0 else "w", buffering=1) for n in range(3))
    with open("/proc/self/statm") as statm:
        present = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (limit := present + int(memory_mb * 2**20), limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _watch(place: Place, log: int, allowed: Sequence[Path]) -> None:
    """Write an event for each program that this process starts, and each file that it may not touch."""
    homes = tuple(f"{os.path.realpath(folder)}{os.sep}" for folder in (place.work, place.temporary, *allowed))
    devices, forbidden = ("/dev/", "/proc/"), os.path.realpath(place.outside)

    def note(event: str, subject: Any) -> None:
        os.write(log, f"{event} {subject}"[:_FAULT_LINES].replace("\n", " ").encode(errors="replace") + b"\n")

    def real(path: Any) -> str:
        text = os.fsdecode(path)
        return os.path.join(os.path.realpath(os.path.dirname(text)), os.path.basename(text))  # the link, not its target

    def check_change(event: str, path: Any) -> None:
        if isinstance(path, str | bytes | os.PathLike) and not f"{real(path)}/".startswith((*homes, *devices)):
            note(event, os.fsdecode(path))

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if not isinstance(path, str | bytes | os.PathLike):
                return
            if isinstance(flags, int) and flags & _WRITE and not flags & os.O_PATH:
                target = os.path.realpath(os.fsdecode(path))
                if not f"{target}/".startswith((*homes, *devices)):
                    note("write", os.fsdecode(path))
            elif os.path.realpath(os.fsdecode(path)).startswith(forbidden):
                note("read", os.fsdecode(path))
        elif event in _CHANGES:
            for index in _CHANGES[event]:
                check_change(event, arguments[index])
        elif event in _PROGRAMS:
            note(event, arguments[:2])

    sys.addaudithook(hook)


def _wait(process: int, deadline: float) -> tuple[int | None, resource.struct_rusage]:
    while time.monotonic() < deadline:
        done, status, usage = os.wait4(process, os.WNOHANG)
        if done:
            _end_group(process)
            return os.waitstatus_to_exitcode(status), usage
        time.sleep(0.01)
    _end_group(process)
    _, _, usage = os.wait4(process, 0)
    return None, usage


def _end_group(process: int) -> None:
    """End a process and the children that it has left; they are all of its own session."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process, signal.SIGKILL)
