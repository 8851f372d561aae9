"""Faults in mid-motion on the twin: time until the arm is safe, and the state that the run leaves.

    uv run python -m benchmarks.real_arm.fault_table
    uv run python -m benchmarks.real_arm.fault_table n=5 faults=[unplug,sigkill]

Every fault strikes the twin n times, over the serial port and through the whole path of deploy.py, each time at another
moment of a motion of all joints. A trial gives the seconds until the arm is safe in the simulation, the line that ends
the run, the number of servos with torque afterwards, and whether the recording can be opened and is complete.

Finished trials are kept in results/fault_table.json, and the same command resumes; faults that were played on another
machine begin again. A trial takes 10 to 20 seconds.
"""

import contextlib
import json
import logging
import re
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import RESULTS, Machine, keep, markdown
from benchmarks.real_arm.faults import (
    FAULTS,
    LIMITED,
    LIMP,
    ON_PATH,
    PROCESS_FAULTS,
    SERVED,
    SIGNALS,
    TWIN_OF,
    Fault,
    deploying,
    wait_for_motion,
)
from benchmarks.real_arm.rig import HIGHEST, LOWEST, RATE, START, Rig, Truth, Waving, start_rig, waving
from benchmarks.real_arm.served_policy import Served, served
from benchmarks.settings import setting, start
from policies.data import open_dataset
from robot_io.deployment import Episode
from robot_io.recording import Recorder
from tinyvla.errors import UserError

ALL_FAULTS = FAULTS | PROCESS_FAULTS
MOVING, HALF = 10.0, 0.51  # degrees/s; share of the torque
OFF_PATH = 8.0  # degrees beyond the wave, more than the arm sags
STEADY_S = 0.2  # time without motion that counts as safe, for joints that try again
TITLES = {
    "about": "fault",
    "n": "n",
    "safe": "safe state",
    "bound_s": "bound (s)",
    "worst_s": "worst (s)",
    "within": "within",
    "one_line": "ended as it should",
    "limp": "torque off as it should",
    "readable": "recordings readable",
    "machine": "machine",
}


class Striker:
    """Watcher that releases the arm at the start and strikes with a fault after `ticks`."""

    def __init__(self, fault: Fault, ticks: int, rig: Rig, runner: Waving | Served) -> None:
        self._fault, self._left, self._rig, self._runner = fault, ticks, rig, runner
        self.struck = self.ended = float("inf")

    def begin(self, episode: Episode) -> None:
        self._rig.let_go()

    def observe(self, tick: Any) -> None:
        self._left -= 1
        if self._left == 0 and self._fault.strike is not None:
            self.struck = time.monotonic()
            self._fault.strike(self._rig, self._runner)

    def end(self, result: Mapping[str, Any]) -> None:
        self.ended = time.monotonic()

    def report(self) -> dict[str, Any]:
        return {}


def seconds_until_safe(fault: Fault, since: float, until: float, truth: Truth) -> float | None:
    """Seconds from the strike at `since` until the arm is safe; None if it is not by `until`."""
    times, speeds, torques = truth.arrays()
    angles = truth.angles()[1][: len(times)]
    after = (times >= since) & (times <= until)
    times, speeds, torques, angles = times[after] - since, speeds[after], torques[after], angles[after]
    by_joint = {
        LIMP: torques > 0,
        LIMITED: torques > HALF,
        ON_PATH: (angles < LOWEST - OFF_PATH) | (angles > HIGHEST + OFF_PATH),
    }.get(fault.safe, (np.abs(speeds) > MOVING) & (torques > 0))
    unsafe: np.ndarray = by_joint.any(axis=1)
    if not len(unsafe):
        return None
    if not unsafe.any():
        return 0.0
    if fault.safe == LIMITED:  # the joint tries again at times, so the first safe moment counts
        steady = [unsafe[(times >= start) & (times < start + STEADY_S)].any() for start in times]
        return None if all(steady) else round(float(times[steady.index(False)]), 3)
    last = int(np.flatnonzero(unsafe)[-1])
    return round(float(times[last + 1]), 3) if last + 1 < len(times) else None


def readable(folder: Path, report: Mapping[str, Any]) -> bool | None:
    """True if a recording can be opened and has all of its frames; None if there was nothing to record."""
    figures = report.get("recording", {})
    if not figures.get("frames"):
        return None if not folder.exists() and "error" not in figures else False
    try:
        dataset = open_dataset(folder)
        return len(dataset) == figures["frames"] and dataset[len(dataset) - 1]["action"].isfinite().all().item()
    except Exception:  # any error means that it cannot be read
        return False


class Recorders:
    """Recorders in a folder each; the next one starts in advance, because its process takes seconds."""

    def __init__(self, rig: Rig, runner: Waving | Served) -> None:
        self._rig, self._runner, self._pool = rig, runner, ThreadPoolExecutor(1)
        self._ahead: Future[tuple[Path, Recorder]] | None = None

    def next(self, ahead: bool) -> tuple[Path, Recorder]:
        """Folder and recorder that has started; ahead: start the next one."""
        recorder = (self._ahead or self._pool.submit(self._start)).result()
        self._ahead = self._pool.submit(self._start) if ahead else None
        return recorder

    def close(self) -> None:
        if self._ahead is not None:
            self._ahead.result()[1].close()

    def _start(self) -> tuple[Path, Recorder]:
        folder = Path(tempfile.mkdtemp(dir=self._rig.folder))
        folder.chmod(0o777)
        return folder, self._rig.recorder(folder / "recording", self._runner)


def in_this_process(
    name: str, fault: Fault, rig: Rig, runner: Waving | Served, number: int, recorders: Recorders
) -> dict[str, Any]:
    """Result of one trial of a fault of the arm, its cameras or its policy."""
    ticks = int(np.random.default_rng([sum(map(ord, name)), number]).integers(15, 46))
    striker = Striker(fault, ticks, rig, runner)
    folder, recorder = recorders.next(ahead=fault.around is None)  # such a context may change this process's user
    with recorder:
        rig.hold()
        line, began, report = "", time.monotonic(), {}
        with Truth(rig.twin.folder) as truth:
            try:
                around = fault.around(rig) if fault.around else None
                robot = around.__enter__() if around else {}
                try:
                    run = rig.deployment(runner, striker, recorder, **robot)
                    report = run.report
                    run.run([Episode("wave", ticks / RATE + fault.rest_s, START)], folder)
                finally:
                    if around:
                        around.__exit__(None, None, None)
            except UserError as error:
                line = str(error)
            except Exception as error:
                line = f"{type(error).__name__}: {error}"
            finally:
                runner.wake()
            torque = truth.newest[2]
        if fault.strike is not None and striker.struck == float("inf"):
            raise SystemExit(f"error: a run ended before its fault ({line}); repeat this command on a quiet machine")
        since = began if fault.safe == LIMP else striker.struck
        until = striker.ended if fault.ends is None else np.inf  # a run that continues moves the arm back
    expected = re.search(fault.ends, line) is not None if fault.ends else not line
    return {
        "seconds": seconds_until_safe(fault, since, until, truth),
        "line": line,
        "expected": expected and "\n" not in line,
        "torque_left": sum(share > 0 for share in torque),
        "readable": readable(folder / "recording", report),
        "interventions": {cause: n["interventions"] for cause, n in report.get("safety", {}).get("causes", {}).items()},
    }


def of_a_process(name: str, fault: Fault, rig: Rig, number: int, folder: Path) -> dict[str, Any]:
    """Result of one trial of a signal that ends or stops the process of deploy.py."""
    rig.hold()
    run_dir = folder / "run"
    with Truth(rig.twin.folder) as truth:
        with deploying(rig, run_dir) as process:
            rig.let_go()
            time.sleep(0.5 + np.random.default_rng([sum(map(ord, name)), number]).uniform(0, 1))
            wait_for_motion(truth)
            since = time.monotonic()
            process.send_signal(SIGNALS[name])
            time.sleep(fault.bound_s + 1)
            if name != "sigstop":
                process.wait(120)
            stderr = "" if name == "sigstop" or process.stderr is None else process.stderr.read()
        torque = truth.newest[2]
    _until_written(run_dir / "recording")
    report = json.loads((run_dir / "deploy.json").read_text()) if (run_dir / "deploy.json").exists() else {}
    ended = report.get("ended", "")
    return {
        "seconds": seconds_until_safe(fault, since, np.inf, truth),
        "line": ended,
        "expected": ended == (fault.ends or "") and "Traceback" not in stderr,
        "torque_left": sum(share > 0 for share in torque),
        "readable": _opens(run_dir / "recording"),
    }


def _until_written(recording: Path, patience_s: float = 60.0) -> None:
    """Wait for the process that writes the recording, which ends after the run."""
    end = time.monotonic() + patience_s
    while not _opens(recording) and time.monotonic() < end:
        time.sleep(1)


def _opens(recording: Path) -> bool:
    try:
        return len(open_dataset(recording)) > 0
    except Exception:
        return False


def row(name: str, trials: list[dict[str, Any]], machine: str) -> dict[str, Any]:
    """Row of the table for a fault."""
    fault = ALL_FAULTS[name]
    n = len(trials)
    seconds = [trial["seconds"] for trial in trials]
    readable_trials = [trial["readable"] for trial in trials if trial["readable"] is not None]
    allowed = [trial["torque_left"] <= fault.keeps_torque for trial in trials]
    return {
        "name": name,
        "about": fault.about,
        "n": n,
        "safe": "never switched on" if fault.bound_s == 0 else fault.safe,
        "bound_s": fault.bound_s,
        "worst_s": "never" if None in seconds else max(seconds),
        "within": f"{sum(value is not None and value <= fault.bound_s for value in seconds)}/{n}",
        "one_line": f"{sum(trial['expected'] for trial in trials)}/{n}",
        "limp": f"{sum(allowed)}/{n}" + (f" ({fault.keeps_torque} cannot be reached)" if fault.keeps_torque else ""),
        "readable": f"{sum(readable_trials)}/{len(readable_trials)}" if readable_trials else "nothing recorded",
        "machine": machine,
    }


class Trials:
    """Finished trials by fault, all of a fault on one machine, which is kept in `machines`."""

    def __init__(self, earlier: Mapping[str, Any]) -> None:
        self.by_fault: dict[str, list[dict[str, Any]]] = {
            name: earlier.get("trials", {}).get(name, []) for name in ALL_FAULTS
        }
        machine = earlier.get("machine", "")
        self.machines = dict.fromkeys(ALL_FAULTS, machine) | earlier.get("machines", {})

    def begin(self, name: str, anew: bool) -> None:
        """Forget the trials of a fault if they are to be played anew, or are of another machine."""
        if anew or self.machines[name] != Machine().name:
            self.by_fault[name] = []
        self.machines[name] = Machine().name

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [row(name, trials, self.machines[name]) for name, trials in self.by_fault.items() if trials]

    def store(self) -> None:
        """Write all finished trials and their table."""
        machines = {name: self.machines[name] for name, trials in self.by_fault.items() if trials}
        result = Machine().describe(1) | {"machines": machines, "rows": self.rows, "trials": self.by_fault}
        keep("fault_table", result, f"{Machine().title(1)}\n\n{markdown(self.rows, TITLES)}")


@dataclass
class Settings:
    """Settings of the command line."""

    n: int = setting(20, "trials per fault")
    faults: list[str] = setting(list(ALL_FAULTS), "faults", ALL_FAULTS)
    anew: bool = setting(False, "forget the finished trials of these faults")


def main(settings: Settings) -> None:
    logging.disable(logging.CRITICAL)
    path = RESULTS / "fault_table.json"
    earlier = json.loads(path.read_text()) if path.exists() else {}
    trials = Trials(earlier)
    for name in settings.faults:
        trials.begin(name, settings.anew)
    shared = [name for name in settings.faults if name not in {*TWIN_OF, *SERVED}]
    separate = [name for name in settings.faults if name not in shared]
    for names in [shared, *([name] for name in separate)]:
        if any(len(trials.by_fault[name]) < settings.n for name in names):
            play(names, settings.n, trials)
    print(json.dumps({"rows": trials.rows}))


def play(names: list[str], n: int, trials: Trials) -> None:
    """Play the missing trials of some faults, on one twin and with one policy."""
    policy = served if names[0] in SERVED else waving
    with (
        start_rig(**TWIN_OF.get(names[0], {})) as rig,
        policy(rig) as runner,
        contextlib.closing(Recorders(rig, runner)) as recorders,
    ):
        for name in names:
            for number in range(len(trials.by_fault[name]), n):
                if name in FAULTS:
                    trial = in_this_process(name, FAULTS[name], rig, runner, number, recorders)
                else:
                    with tempfile.TemporaryDirectory(dir=rig.folder) as folder:
                        trial = of_a_process(name, PROCESS_FAULTS[name], rig, number, Path(folder))
                print(name, json.dumps(trial), flush=True)
                trials.by_fault[name].append(trial)
                trials.store()


if __name__ == "__main__":
    start(main, Settings, __doc__)
