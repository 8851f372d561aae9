"""Delay until the arm's twin stops when a person enters its camera's view, detector and serial port included.

    uv run python -m benchmarks.real_arm.person_gate_twin

First a person detector is trained on images of the table with and without people who reach over it (kept in `work`).
Then the twin sweeps its arm under `Deployment` at 30 Hz, and in every trial a visitor with a look that is not in the
training images moves into the front camera's view at a random moment. Times count from the first frame after that: to
the first tick that holds the arm, to the last pose that differs from the one before, and to the standstill of the arm.
In the end the gate watches the empty table for minutes, the arm sweeping, and should stay open.
Writes results/person_gate_twin.json and .md; the last line is one JSON object.
"""

import json
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.frontends.false_alarms import count_false_alarms
from benchmarks.frontends.one_cycle import train
from benchmarks.frontends.vision_tasks import trainable_of
from benchmarks.machine import Machine, keep, markdown
from benchmarks.settings import as_values, setting, start
from configs.composing import as_dict, decode, load_config
from envs.rendering import CameraRenderers, mujoco
from envs.so101.simulation import Simulation
from envs.so101.visitor import (
    AWAY,
    VISIBLE,
    Place,
    VisitedScene,
    draw_place,
    place_visitor,
    visible_share,
    visitor_images,
)
from robot_io.arms import make_arm, with_twin_cameras
from robot_io.deployment import Deployment, Episode, watch_for_people
from robot_io.person_gate import PersonGateSettings, load_person_gate
from robot_io.safety import Reaction, SafetyLayer, SafetyLimits
from robot_io.twin import TwinSettings, start_twin
from tinyvla.frontends import load_frontend
from tinyvla.frontends.wake import GateLimits, Wake
from tinyvla.frontends.wake.dataset import WakeVisionImages
from tinyvla.intervals import wilson_interval

CAMERA, SIZE, FPS = "front", 96, 30.0
HOME = (0.0, -48.0, 30.0, 85.0, 3.0, 45.0)
SWING, PERIOD_S = (35.0, 6.0, 6.0, 8.0, 10.0, 0.0), (4.0, 3.1, 2.7, 2.3, 3.7, 1.0)  # per joint, LeRobot's units
LIMIT_MS = 300.0
VISITORS, LOOKS = 8, 1_000_000  # of the twin; looks in the training images have other seeds
STILL = np.radians(1.0)  # rad/s
MOVING_S, WAIT_S = 0.6, 5.0  # motion before a trial; wait until a trial counts as failed


@dataclass
class Settings:
    """Settings of the command line."""

    trials: int = setting(50, "visits")
    images: int = setting(3000, "training images of the detector")
    steps: int = setting(500, "training steps of the detector, 64 images each")
    empty_minutes: int = setting(10, "minutes of the table without visitors")
    seed: int = setting(0, "seed of training and trials")
    work: str = setting("outputs/bench-person-gate", "folder of the detector")


def train_detector(settings: Settings) -> Path:
    """Folder of the detector for this table, trained if it is missing."""
    folder = Path(settings.work) / "detector"
    if not (folder / "config.json").exists():
        images = {
            split: WakeVisionImages(*visitor_images(count, CAMERA, SIZE, seed))
            for seed, (split, count) in enumerate((("train", settings.images), ("validation", 400), ("test", 400)))
        }
        cfg = as_dict(load_config("train", ["task=perception/wake"]))
        trainer = cfg["trainer"] | {"steps": settings.steps, "batch_size": 64}
        trainable = trainable_of(cfg["task"] | {"image_size": SIZE, "trainer": trainer}, images, settings.seed)
        train(trainable, trainer)
        trainable.save(folder)
        figures = {name: figure._asdict() for name, figure in trainable.test().items()}
        (folder / "test.json").write_text(json.dumps(figures))
    return folder


class Sweep:
    """Runner in place of a policy that swings every joint about a pose."""

    def __init__(self) -> None:
        camera = {f"observation.images.{CAMERA}": SimpleNamespace(shape=(3, SIZE, SIZE))}
        joints = SimpleNamespace(shape=(len(HOME),))
        self.policy = SimpleNamespace(
            config=SimpleNamespace(image_features=camera, robot_state_feature=joints, action_feature=joints)
        )
        self.preprocessor = self.postprocessor = SimpleNamespace(steps=[])
        self.needs_observation, self.held = False, 0
        self.reset(0)

    def reset(self, seed: int) -> None:
        self._begun = time.monotonic()

    def act(self, observation: Any) -> np.ndarray:
        return sweep(time.monotonic() - self._begun)


def sweep(seconds: float) -> np.ndarray:
    """Pose of the arm at a time, (6,) in LeRobot's units."""
    return np.array(HOME) + np.array(SWING) * np.sin(2 * np.pi * seconds / np.array(PERIOD_S))


class Log:
    """Watcher that records time, reaction and pose of every tick."""

    def __init__(self, camera: Any):
        self.camera = camera
        self.ticks: list[tuple[float, float, Reaction, np.ndarray]] = []  # time, time of its frame, reaction, pose

    def begin(self, episode: Any) -> None: ...

    def observe(self, tick: Any) -> None:
        self.ticks.append((time.monotonic(), self.camera.latest_timestamp, tick.reaction, tick.sent))

    def end(self, result: Any) -> None: ...

    def report(self) -> dict[str, Any]:
        return {}


class Trials(threading.Thread):
    """Thread that moves visitors in and out while the arm sweeps, and measures when it stops."""

    def __init__(self, log: Log, twin: Any, visits: list[tuple[str, Place]], seed: int):
        super().__init__(name="trials", daemon=True)
        self.log, self.twin, self.visits, self.rng = log, twin, visits, np.random.default_rng(seed)
        self.results: list[dict[str, Any]] = []
        self.finished = False

    def run(self) -> None:
        try:
            for visitor, place in tqdm(self.visits, desc="visits"):
                if not self._wait(self._moving, 60.0):
                    break
                time.sleep(self.rng.uniform(0, 0.3))
                self.results.append(self._visit(visitor, place))
        finally:
            self.finished = True

    def _visit(self, visitor: str, place: Place) -> dict[str, Any]:
        came = time.monotonic()
        self._send(visitor, place.position, place.turn)
        stood: list[tuple[float, float]] = []
        end = came + 1.0
        while time.monotonic() < end:
            speed = float(np.abs(self.twin.state()["qvel"][:6]).max())
            stood.append((time.monotonic(), speed))
            time.sleep(0.01)
        self._wait(lambda: self._held_since(came) is not None, WAIT_S)
        held = self._held_since(came)
        self._send(visitor, AWAY, (1, 0, 0, 0))
        frame = next((stamp for _, stamp, _, _ in self.log.ticks if stamp >= came), None)
        if held is None or frame is None:
            return {"visitor": visitor, "held_ms": None, "rest_ms": None, "still_ms": None, "from_move_ms": None}
        still = next((when for when, speed in reversed(stood) if speed > STILL), came)
        return {
            "visitor": visitor,
            "held_ms": 1e3 * (held - frame),
            "rest_ms": 1e3 * (self._rests_from(held) - frame),
            "still_ms": 1e3 * (still - frame) if still < end - 0.05 else None,
            "from_move_ms": 1e3 * (held - came),
        }

    def _moving(self) -> bool:
        ticks = self.log.ticks[-int(30 * MOVING_S) :]
        return len(ticks) == int(30 * MOVING_S) and all(reaction == Reaction.FOLLOW for _, _, reaction, _ in ticks)

    def _held_since(self, came: float) -> float | None:
        return next(
            (when for when, _, reaction, _ in list(self.log.ticks) if when > came and reaction == Reaction.HOLD), None
        )

    def _rests_from(self, held: float) -> float:
        """Time of the last pose that differs from the one before, from `held` on."""
        ticks = [(when, pose) for when, _, reaction, pose in list(self.log.ticks) if when >= held]
        for (_, before), (when, pose) in pairwise(ticks):
            if np.abs(pose - before).max() < 1e-6:
                return when
        return ticks[-1][0]

    def _send(self, visitor: str, position: Any, turn: Any) -> None:
        self.twin.send(f"move {visitor} " + " ".join(f"{number:.6f}" for number in (*position, *turn)))

    def _wait(self, condition: Any, seconds: float) -> bool:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if condition():
                return True
            time.sleep(0.005)
        return False


def draw_visits(count: int, seed: int) -> list[tuple[str, Place]]:
    """Visitors and places in view of the front camera, independent of the arm: checked with the arm folded."""
    scene, rng = VisitedScene(visitors=VISITORS, looks=LOOKS), np.random.default_rng(seed)
    visits: list[tuple[str, Place]] = []
    empty = scene.draw(scene.data, CAMERA, SIZE, SIZE).copy()
    while len(visits) < count:
        visitor, place = f"visitor{rng.integers(VISITORS)}", draw_place(rng)
        place_visitor(scene.model, scene.data, visitor, place)
        mujoco.mj_forward(scene.model, scene.data)
        if visible_share(scene.draw(scene.data, CAMERA, SIZE, SIZE), empty) >= 2 * VISIBLE:
            visits.append((visitor, place))
    scene.close()
    return visits


def watch_empty_table(folder: Path, limits: GateLimits, minutes: int, seed: int) -> dict[str, Any]:
    """False alarms without people: a new table every minute, the arm in its pose, not in real time."""
    simulation, rng = Simulation("pick-lift"), np.random.default_rng([seed, 2])
    renderers, wake = CameraRenderers(simulation.model), load_frontend(folder)
    assert isinstance(wake, Wake)

    def probabilities() -> Iterator[float]:
        for frame in tqdm(range(int(60 * FPS * minutes)), desc="empty table"):
            if frame % int(60 * FPS) == 0:
                simulation.reset(rng)
            simulation.place_arm(sweep(frame / FPS))
            yield wake.probability(renderers.draw(simulation.data, CAMERA, SIZE))

    alarms = count_false_alarms(limits, probabilities(), FPS)
    renderers.close()
    return {"minutes": minutes} | alarms


def summarise(trials: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Row per time: trials within the limit, and quantiles."""
    rows = []
    for name, meaning in (
        ("held_ms", "arm held"),
        ("rest_ms", "last motion sent"),
        ("still_ms", "arm still"),
        ("from_move_ms", "arm held, from the command that moved the visitor"),
    ):
        times = np.array([trial[name] for trial in trials if trial[name] is not None])
        quick = int((times <= LIMIT_MS).sum())
        row = {"what": meaning, "within": quick, "trials": len(trials), "ci95": wilson_interval(quick, len(trials))}
        quantiles = np.quantile(times, (0.5, 0.95, 1)).round(1).tolist() if len(times) else [None] * 3
        rows.append(row | dict(zip(("median_ms", "p95_ms", "worst_ms"), quantiles, strict=True)))
    return rows


def main(settings: Settings) -> None:

    machine, folder = Machine(), train_detector(settings)
    visits = draw_visits(settings.trials, settings.seed)
    conditions = machine.describe(1)
    torch.set_num_threads(1)
    resume = ["safety.person.enabled=true", "safety.person.resume_s=0.5"]
    cfg = load_config("deploy", ["checkpoint=none", "robot=twin", f"person_gate.checkpoint={folder}", *resume])
    layer = SafetyLayer(SafetyLimits.decode(as_dict(cfg.safety)))
    robot = with_twin_cameras(as_dict(cfg.robot), {CAMERA: (SIZE, SIZE)})
    robot["twin"]["scene_options"] = {"visitors": VISITORS, "looks": LOOKS}
    gate = load_person_gate(decode(PersonGateSettings, cfg.person_gate), layer.limits, simulated=True)
    with (
        start_twin(TwinSettings.from_config(robot, settings.seed, VisitedScene)) as twin,
        watch_for_people(gate, CAMERA, layer.limits) as person,
        tempfile.TemporaryDirectory() as run_dir,
    ):
        arm: Any = make_arm(robot, twin)
        log = Log(arm.cameras[CAMERA])
        trials = Trials(log, twin, visits, settings.seed)
        trials.start()
        runner: Any = Sweep()
        run = Deployment(arm, runner, layer, [log], approach_speed=0.5, person=person)
        report = run.run([Episode("sweep", start_pose=HOME, success=lambda: trials.finished)], Path(run_dir))
    assert gate is not None
    empty = watch_empty_table(folder, gate.gate.limits, settings.empty_minutes, settings.seed)
    rows = summarise(trials.results)
    minutes = (log.ticks[-1][0] - log.ticks[0][0]) / 60
    result = {
        "machine": conditions, "arguments": as_values(settings), "rows": rows, "trials": trials.results,
        "timing": report["timing"],
        "detector": json.loads((folder / "test.json").read_text()), "minutes": round(minutes, 2),
        "interventions": report["safety"]["causes"], "on": gate.gate.limits.on,
        "empty": empty,
    }  # fmt: skip
    titles = {"what": "", "within": f"within {LIMIT_MS:.0f} ms", "trials": "of", "median_ms": "median ms"}
    table = markdown(rows, titles | {"p95_ms": "95% ms", "worst_ms": "worst ms"})
    people_stops = report["safety"]["causes"].get("person", {}).get("interventions", 0)
    note = f"{people_stops} stops for a person in {minutes:.1f} minutes with {len(trials.results)} visits."
    note += f" Empty table: closed {empty['raises']} times in {empty['minutes']} minutes ({empty['closed_s']} s)."
    keep("person_gate_twin", result, "\n\n".join([machine.title(1), table, note]))
    print(json.dumps(result))


if __name__ == "__main__":
    start(main, Settings, __doc__)
