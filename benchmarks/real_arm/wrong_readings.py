"""Wrong readings of an arm at rest and in motion, on the twin: the distance that they move it.

    uv run python -m benchmarks.real_arm.wrong_readings
    uv run python -m benchmarks.real_arm.wrong_readings n=30

Positions are changed between the servo bus and the control loop: a wrap of 360 degrees, another servo's value, 1e308,
for one tick, several, a second, or until the end of the trial. The arm is commanded to stand still or to wave, through
the safety layer and over the serial port. A trial gives the greatest distance of a joint, in the simulation, to the
poses that were commanded, and the number of wrong readings that reached the command source. A reading that stays at a
possible place is believed in the end, as that of an arm that was displaced, but the arm does not go there.

Finished trials are kept in results/wrong_readings.json, and the same command resumes. A trial takes 6 seconds.
"""

import itertools
import json
import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.machine import Machine, keep, markdown, read_kept
from benchmarks.real_arm.rig import RATE, wave
from benchmarks.settings import setting, start
from configs.composing import as_dict, load_config
from robot_io.arms import make_arm
from robot_io.control_loop import ControlLoop
from robot_io.deployment.arm_session import ArmSession
from robot_io.safety import SafetyLayer, SafetyLimits
from robot_io.twin import TwinControl, TwinSettings, start_twin
from tinyvla.arms.so101 import SO101

BEFORE_S, AFTER_S, LONGEST_S = (0.3, 1.0), 1.5, 3.0  # seconds of a trial around the wrong readings
ALLOWED = 1.0  # degrees
PAUSE_S = 0.02  # seconds between two looks at the simulation
DURATIONS = {"1 tick": 1, "several ticks": 6, "1 second": 30, "until the end": 10_000}
TITLES = {
    "kind": "reading",
    "n": "n",
    "within": f"moved < {ALLOWED:g}°",
    "worst": "worst (°)",
    "seen": "wrong readings believed at once",
    "displaced": "believed in the end",
}


def wrapped(rng: np.random.Generator, positions: np.ndarray) -> np.ndarray:
    """Positions with 360 degrees more or less in some joints."""
    return positions + 360 * rng.choice([-1, 1], len(positions)) * _some(rng)


def of_another_servo(rng: np.random.Generator, positions: np.ndarray) -> np.ndarray:
    """Positions of which one is that of another servo, at least 20 units away."""
    joint, other = next(
        pair
        for pair in rng.permuted(list(itertools.permutations(range(5), 2)), axis=0)
        if abs(positions[pair[0]] - positions[pair[1]]) > 20
    )
    changed = positions.copy()
    changed[joint] = positions[other]
    return changed


def shuffled(rng: np.random.Generator, positions: np.ndarray) -> np.ndarray:
    """Positions of the servos, one place further."""
    return np.roll(positions, int(rng.integers(1, len(positions))))


def huge(rng: np.random.Generator, positions: np.ndarray) -> np.ndarray:
    """Positions of 1e308 in some joints."""
    return np.where(_some(rng), 1e308, positions)


def _some(rng: np.random.Generator) -> np.ndarray:
    chosen = rng.random(len(SO101.joints)) < 0.3
    chosen[rng.integers(len(chosen))] = True
    return chosen


KINDS: dict[str, Callable[[np.random.Generator, np.ndarray], np.ndarray]] = {
    kind.__name__.replace("_", " "): kind for kind in (wrapped, of_another_servo, shuffled, huge)
}


class Truth(threading.Thread):
    """Thread that keeps the extremes of the joints' true positions, in LeRobot's units."""

    def __init__(self, twin: TwinControl) -> None:
        super().__init__(name="truth", daemon=True)
        self.low, self.high = np.full(6, np.inf), np.full(6, -np.inf)
        self._twin, self._leaving = TwinControl(twin.folder), threading.Event()

    def __enter__(self) -> "Truth":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._leaving.set()
        self.join()
        self._twin.close()

    def run(self) -> None:
        while not self._leaving.wait(PAUSE_S):
            at = true_positions(self._twin)
            self.low, self.high = np.minimum(self.low, at), np.maximum(self.high, at)


def true_positions(twin: TwinControl) -> np.ndarray:
    """Positions of the joints in the simulation, (6,) in LeRobot's units."""
    angles = [joint["angle"] for joint in twin.state()["joints"].values()]
    return SO101.from_radians(np.radians(angles))


class Trial:
    """One trial: positions are wrong from a tick on, for some ticks."""

    def __init__(self, number: int, seed: int) -> None:
        self.rng = np.random.default_rng([seed, number])
        kinds, durations = list(KINDS), list(DURATIONS)
        self.kind = kinds[number % len(kinds)]
        self.duration = durations[number // len(kinds) % len(durations)]
        self.waves = number // (len(kinds) * len(durations)) % 2 == 1
        self.begins = int(RATE * self.rng.uniform(*BEFORE_S))
        ticks = min(DURATIONS[self.duration], int(RATE * LONGEST_S))
        self.seconds = (self.begins + ticks) / RATE + AFTER_S
        self.ends = self.begins + DURATIONS[self.duration]
        self._reads, self._asked, self._wrong = 0, 0, False
        self.believed: list[int] = []  # reads whose wrong positions reached the source
        self._offset: np.ndarray | None = None

    def spoil(self, observation: Mapping[str, Any]) -> dict[str, Any]:
        """Observation as the loop reads it."""
        self._reads += 1
        keys = [f"{joint}.pos" for joint in SO101.joints]
        positions = np.array([observation[key] for key in keys], dtype=float)
        self._wrong = self.begins <= self._reads < self.ends
        if self._wrong:
            if self._offset is None:  # the same joints for the whole trial
                self._offset = KINDS[self.kind](self.rng, positions) - positions
            positions = positions + self._offset
        return {**observation, **dict(zip(keys, positions.tolist(), strict=True))}

    def command(self, observation: Mapping[str, Any]) -> np.ndarray:
        """Pose of this tick, (6,); the motion waits while readings fail, as a policy does."""
        if self._wrong:
            self.believed.append(self._reads - self.begins)
        self._asked += self.waves
        return wave(np.array([self._asked]))[0]


def play(number: int, seed: int, session: ArmSession, twin: TwinControl, limits: SafetyLimits) -> dict[str, Any]:
    """Result of one trial, on a connected arm that stands where the wave begins."""
    trial, layer = Trial(number, seed), SafetyLayer(limits)
    arm = session.arm()
    read = arm.get_observation
    arm.get_observation = lambda: trial.spoil(read())  # type: ignore[method-assign]
    commanded = wave(np.arange(0, 200 if trial.waves else 1))
    begun = true_positions(twin)
    if np.abs(begun - commanded[0]).max() > ALLOWED:
        raise SystemExit(f"error: trial {number} does not begin at the start of the wave but at {begun.round(1)}")
    with Truth(twin) as truth, session.driven():
        ended = ControlLoop(arm, trial.command, layer).run(trial.seconds)
    beyond = np.maximum(commanded.min(axis=0) - truth.low, truth.high - commanded.max(axis=0)).max()
    back_to_start(session, limits)
    at_once = [read for read in trial.believed if read < 5]
    return {
        "kind": trial.kind,
        "duration": trial.duration,
        "waves": trial.waves,
        "ended": ended,
        "beyond": round(float(beyond), 3),
        "seen": len(at_once),
        "displaced": len(trial.believed) - len(at_once),
        "causes": {cause: n["ticks"] for cause, n in layer.report.to_dict()["causes"].items()},
    }


def back_to_start(session: ArmSession, limits: SafetyLimits) -> None:
    """Bring the arm to the start of the wave, with readings that are right again."""
    layer = SafetyLayer(limits)
    with session.driven():
        ControlLoop(session.arm(), lambda observation: wave(np.zeros(1))[0], layer).run(1.5)


def rows(trials: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Row per kind and duration, and one for all."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for trial in trials:
        groups.setdefault(f"{trial['kind']}, {trial['duration']}", []).append(trial)
    return [
        {
            "kind": kind,
            "n": len(group),
            "within": f"{sum(trial['beyond'] < ALLOWED for trial in group)}/{len(group)}",
            "worst": max(trial["beyond"] for trial in group),
            "seen": sum(trial["seen"] for trial in group),
            "displaced": sum(trial["displaced"] > 0 for trial in group),
        }
        for kind, group in {**groups, "all": trials}.items()
    ]


@dataclass
class Settings:
    """Settings of the command line."""

    n: int = setting(100, "trials")
    seed: int = setting(0, "seed of the trials")


def main(settings: Settings) -> None:
    logging.disable(logging.CRITICAL)
    conditions = {"seed": settings.seed, "machine": Machine().name}
    trials: list[dict[str, Any]] = read_kept("wrong_readings", conditions).get("trials", [])
    cfg = load_config("deploy", ["checkpoint=none", "robot=twin"])
    robot, limits = as_dict(cfg.robot) | {"cameras": {}}, SafetyLimits.decode(as_dict(cfg.safety))
    robot["twin"] |= {"scene": "robot_io.twin.bare_arm.BareArm", "scene_options": {}}
    with start_twin(TwinSettings.from_config(robot, settings.seed)) as twin:
        session = ArmSession(make_arm(robot, twin), limits)
        twin.place(SO101.to_radians(wave(np.zeros(1))[0]))
        twin.send("hand " + " ".join(f"{joint}={joint_angle}" for joint, joint_angle in _start_angles().items()))
        with session.connected():
            twin.send("hand release")
            back_to_start(session, limits)
            for number in range(len(trials), settings.n):
                trials.append(play(number, settings.seed, session, twin, limits))
                print(number, json.dumps(trials[-1]), flush=True)
                table = markdown(rows(trials), TITLES)
                keep(
                    "wrong_readings",
                    Machine().describe(1) | {"asked": conditions, "rows": rows(trials), "trials": trials},
                    f"{Machine().title(1)}\n\n{table}",
                )
    print(json.dumps({"rows": rows(trials)}))


def _start_angles() -> dict[str, float]:
    return dict(zip(SO101.joints, np.degrees(SO101.to_radians(wave(np.zeros(1))[0])).tolist(), strict=True))


if __name__ == "__main__":
    start(main, Settings, __doc__)
