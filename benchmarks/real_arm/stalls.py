"""Stalls of the serial line and doubled answers at random moments: readings that are wrong.

    uv run python -m benchmarks.real_arm.stalls
    uv run python -m benchmarks.real_arm.stalls n=20 bus=lerobot

The arm's twin waves under the whole path of deploy.py, with a recording. In every trial the bytes from the servos are
held back once for 20 to 500 ms, or 1 to 12 answers come twice, at a random moment. Every observation that the run
reads, which is what policy, safety layer and recording get, is compared with the true angles of the simulation: a
reading is wrong if a joint is more than 5 degrees outside the angles before and after it. `bus=lerobot` reads with
LeRobot's bus instead.

Finished blocks of trials are kept in results/stalls.json, and the same command resumes.
"""

import json
import logging
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from lerobot.motors.feetech import FeetechMotorsBus

from benchmarks.machine import Machine, keep, markdown, read_kept
from benchmarks.real_arm.rig import RATE, START, Rig, Waving, start_rig, waving
from benchmarks.settings import setting, start
from policies.data import open_dataset
from robot_io.deployment import Episode
from robot_io.twin import TwinControl
from tinyvla.arms.so101 import SO101
from tinyvla.errors import UserError

BLOCK = 10  # trials per run
EVERY_S, SPREAD_S = 2.0, 1.0  # seconds per trial, of which the last part is the random moment's
STALL_S, DOUBLED = (0.02, 0.5), (1, 12)
WRONG = 5.0  # degrees
TITLES = {
    "bus": "bus",
    "fault": "fault",
    "n": "n",
    "readings": "readings",
    "wrong": "wrong readings",
    "worst": "worst error (degrees)",
    "recorded": "wrong frames recorded",
    "unread": "ticks without a reading",
    "ended": "runs that ended early",
}


class Reading(NamedTuple):
    """Position that a run has read, in LeRobot's units, and the true angles before and after, in degrees; (6,) each."""

    position: np.ndarray
    before: list[float]
    after: list[float]

    @property
    def miss(self) -> float:
        """Degrees by which the position lies outside the true angles."""
        position = np.degrees(SO101.to_radians(self.position))
        low, high = np.minimum(self.before, self.after), np.maximum(self.before, self.after)
        return float(np.maximum(low - position, position - high).max())


class Striker:
    """Observer that releases the arm at the start and causes a line fault at each of some ticks."""

    def __init__(self, rig: Rig, commands: Mapping[int, str]) -> None:
        self._rig, self._commands, self._start = rig, commands, 0.0
        self.left = sorted(commands)
        self.ticks = 0

    def begin(self, episode: Episode) -> None:
        self._rig.let_go()
        self._start = time.monotonic()

    def observe(self, tick: Any) -> None:
        self.ticks += 1
        if self.left and time.monotonic() - self._start >= self.left[0] / RATE:
            self._rig.twin.send(self._commands[self.left.pop(0)])

    def end(self, result: Mapping[str, Any]) -> None:
        pass

    def report(self) -> dict[str, Any]:
        return {}


def block(rig: Rig, runner: Waving, fault: str, bus: str, number: int) -> dict[str, Any]:
    """Result of one run with BLOCK faults."""
    rng = np.random.default_rng([number, len(fault)])
    moments = [(trial + 1) * EVERY_S - rng.uniform(0, SPREAD_S) for trial in range(BLOCK)]
    numbers = rng.uniform(*STALL_S, BLOCK) if fault == "stall" else rng.integers(DOUBLED[0], DOUBLED[1] + 1, BLOCK)
    commands = [f"{fault} {number:.3g}" for number in numbers]
    striker = Striker(rig, dict(zip([round(moment * RATE) for moment in moments], commands, strict=True)))
    readings: list[Reading] = []
    seconds, line = (BLOCK + 0.5) * EVERY_S, ""
    folder = Path(tempfile.mkdtemp(dir=rig.folder))
    with rig.recorder(folder / "recording", runner) as recorder:
        rig.hold()
        run = rig.deployment(runner, striker, recorder)
        _watch(run.robot, bus, rig.twin, readings)
        try:
            run.run([Episode("wave", seconds, START)], folder)
        except UserError as error:
            line = str(error)
    misses = np.array([reading.miss for reading in readings])
    right = np.array([reading.position for reading in readings])[misses <= WRONG]
    return {
        "trials": BLOCK - len(striker.left),
        "readings": len(misses),
        "wrong": int((misses > WRONG).sum()),
        "worst": round(float(misses.max()), 1),
        "recorded": _wrong_frames(folder / "recording", right),
        "unread": round(seconds * RATE) - striker.ticks,
        "line": line,
    }


def _watch(robot: Any, bus: str, twin: TwinControl, readings: list[Reading]) -> None:
    """Have every observation of a robot stored with the true angles; all that a run knows of the arm comes from it."""
    if bus == "lerobot":
        robot.bus = FeetechMotorsBus(robot.bus.port, robot.bus.motors, robot.bus.calibration)
    read = robot.get_observation

    def angles() -> list[float]:
        return [joint["angle"] for joint in twin.state()["joints"].values()]

    def read_and_store() -> dict[str, Any]:
        before = angles()
        observation = read()
        position = np.array([float(observation[f"{joint}.pos"]) for joint in SO101.joints])
        readings.append(Reading(position, before, angles()))
        return observation

    robot.get_observation = read_and_store


def _wrong_frames(recording: Path, right: np.ndarray) -> int:
    """Number of recorded states that are none of the right readings."""
    states = np.stack([frame["observation.state"].numpy() for frame in open_dataset(recording).hf_dataset])
    return sum(not (np.abs(right - state).max(axis=1) < 1e-3).any() for state in states)


def row(fault: str, bus: str, blocks: list[dict[str, Any]]) -> dict[str, Any]:
    """Row of the table for a fault."""
    sums = {key: sum(result[key] for result in blocks) for key in ("readings", "wrong", "recorded", "unread")}
    worst = max(result["worst"] for result in blocks)
    ended = sum(bool(result["line"]) for result in blocks)
    trials = sum(result["trials"] for result in blocks)
    return {"bus": bus, "fault": fault, "n": trials, "worst": worst, "ended": f"{ended}/{len(blocks)}", **sums}


@dataclass
class Settings:
    """Settings of the command line."""

    n: int = setting(100, f"trials per fault, in blocks of {BLOCK}")
    bus: str = setting("ours", "bus that reads the servos", ["ours", "lerobot"])
    faults: list[str] = setting(["stall", "double"], "faults", ["stall", "double"])


def main(settings: Settings) -> None:
    logging.disable(logging.CRITICAL)
    conditions = {"machine": Machine().name}
    results: dict[str, list[dict[str, Any]]] = read_kept("stalls", conditions).get("blocks", {})
    with start_rig() as rig, waving(rig) as runner:
        for fault in settings.faults:
            blocks = results.setdefault(f"{settings.bus} {fault}", [])
            for number in range(len(blocks), -(-settings.n // BLOCK)):
                blocks.append(block(rig, runner, fault, settings.bus, number))
                print(fault, json.dumps(blocks[-1]), flush=True)
                store(conditions, results)
    print(json.dumps({"rows": rows(results)}))


def rows(results: Mapping[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    return [row(fault, bus, blocks) for name, blocks in results.items() if blocks for bus, fault in [name.split()]]


def store(conditions: Mapping[str, Any], results: Mapping[str, list[dict[str, Any]]]) -> None:
    """Write all finished blocks and their table."""
    result = Machine().describe(1) | {"asked": conditions, "rows": rows(results), "blocks": results}
    keep("stalls", result, f"{Machine().title(1)}\n\n{markdown(rows(results), TITLES)}")


if __name__ == "__main__":
    start(main, Settings, __doc__)
