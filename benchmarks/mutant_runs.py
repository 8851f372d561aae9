"""Tests of mutants, each in a fork of a process that has imported the packages that the tests need.

The fork imports the repository's modules anew, one of them from the mutant's code; no file is changed. Processes that a
test starts run the module as it is.
"""

import contextlib
import importlib
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from benchmarks.machine import ROOT
from benchmarks.mutants import Mutant
from tinyvla.errors import UserError

KILLED, TIMED_OUT, SURVIVED = "killed", "timed out", "survived"
_OURS = {"tinyvla", "policies", "envs", "robot_io", "configs"}
_PATIENCE = 20.0  # seconds beyond three times those that the tests take
_LONGEST = 1800.0  # seconds of all tests of a module


class Baseline(NamedTuple):
    """Tests of a module that is whole.

    tests: those that run a line, by its number; "" stands for the import. seconds: of each test.
    """

    tests: dict[int, list[str]]
    seconds: dict[str, float]


class LineTracer:
    """Pytest plugin that notes which tests run each line of a file, and how long each test takes."""

    def __init__(self, file: Path) -> None:
        from coverage import Coverage

        self._file, self._seconds = str(file), dict[str, float]()
        self._coverage = Coverage(data_file=None, config_file=False, include=[self._file])
        self._coverage.start()

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._coverage.switch_context(nodeid)
        self._seconds[nodeid] = -time.monotonic()

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self._seconds[nodeid] += time.monotonic()

    def baseline(self) -> Baseline:
        """End tracing and return what was noted."""
        self._coverage.stop()
        return Baseline(dict(self._coverage.get_data().contexts_by_lineno(self._file)), self._seconds)


def warm_up(module: str, files: list[str]) -> Baseline:
    """Run the tests of a module that is whole, and import the packages here that they have imported.

    Raises UserError if one fails.
    """
    try:
        code, baseline, packages, environment = in_fork(partial(_run_whole, module, files), _LONGEST)
    except (TimeoutError, EOFError):
        code = None
    if code != pytest.ExitCode.OK:
        raise UserError(f"tests of {module} fail before it is broken; see pytest -n 0 {' '.join(files)}")
    os.environ.update(environment)  # what they set before they import a package
    for package in packages:
        with contextlib.suppress(Exception):
            importlib.import_module(package)
    return baseline


def try_mutant(mutant: Mutant, module: str, files: list[str], baseline: Baseline) -> str:
    """Outcome of a mutant: of the tests that run its statement, and if these pass, of all tests in `files`."""
    covering = {test for line in mutant.statement for test in baseline.tests.get(line, ())}
    if mutant.statement and not covering:
        return SURVIVED
    if covering and "" not in covering:
        outcome = _outcome(mutant, module, covering, baseline)
        if outcome != SURVIVED or covering == baseline.seconds.keys():
            return outcome
    return _outcome(mutant, module, files, baseline)


def _outcome(mutant: Mutant, module: str, tests: Iterable[str], baseline: Baseline) -> str:
    seconds = sum(duration for test, duration in baseline.seconds.items() if {test, test.partition("::")[0]} & {*tests})
    try:
        code = in_fork(partial(_run_broken, module, mutant, sorted(tests)), _PATIENCE + 3 * seconds)
    except TimeoutError:
        return TIMED_OUT
    except EOFError:  # the fork has died
        return KILLED
    # A single test may be missing if its name has a value of the module in it.
    return SURVIVED if code in (pytest.ExitCode.OK, pytest.ExitCode.USAGE_ERROR) else KILLED


def _run_whole(module: str, files: list[str]) -> tuple[int, Baseline, list[str], dict[str, str]]:
    os.dup2(2, 1)  # stdout is the caller's
    tracer = LineTracer(ROOT / module)
    code = _run_pytest(files, tracer)
    origins = {name: getattr(package, "__file__", None) for name, package in sys.modules.items()}
    packages = [name for name, origin in origins.items() if "site-packages" in str(origin)]
    return code, tracer.baseline(), packages, dict(os.environ)


def _run_broken(module: str, mutant: Mutant, tests: list[str]) -> int:
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    broken, get_code = module.removesuffix(".py").replace("/", "."), SourceFileLoader.get_code

    def get_mutant(loader: SourceFileLoader, name: str) -> Any:
        return mutant.code if name == broken else get_code(loader, name)

    SourceFileLoader.get_code = get_mutant  # type: ignore[method-assign, assignment]
    return _run_pytest(tests)


def _run_pytest(tests: list[str], *plugins: Any) -> int:
    for name in [name for name in sys.modules if name.partition(".")[0] in _OURS]:
        del sys.modules[name]
    return int(pytest.main(["-q", "-x", "-n", "0", "-p", "no:cacheprovider", *tests], plugins))


def in_fork[T](function: Callable[[], T], seconds: float) -> T:
    """Result of a function in a fork of this process, which ends with all processes that it has started.

    Raises TimeoutError if it takes longer, and EOFError if the fork dies.
    """
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)

    def work() -> None:
        os.setsid()
        sender.send(function())

    fork = context.Process(target=work)
    fork.start()
    sender.close()
    try:
        if not receiver.poll(seconds):
            raise TimeoutError
        return receiver.recv()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(fork.ident or 0, signal.SIGKILL)
        fork.join()
