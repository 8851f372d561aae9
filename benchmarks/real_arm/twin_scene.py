"""Scene of an SO-101's task on the twin, as benchmarks record, train and deploy in it.

A scripted leader (the simulation's expert) takes a person's place, through the serial port, the control loop and the
safety layer, as record.py does.
"""

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import envs.rendering  # noqa: F401  selects MuJoCo's renderer, here and in the twin
from benchmarks.machine import ROOT
from benchmarks.real_arm.scripted_leader import ScriptedLeader
from configs.composing import as_dict, load_config
from envs.seeds import EpisodeSplit, episode_seed
from envs.so101.tasks import INSTRUCTIONS
from envs.so101.twin import Judge, TwinScene
from robot_io.arms import make_arm
from robot_io.deployment import Deployment, Episode, load_arm_runner
from robot_io.deployment.episodes import count_successes
from robot_io.recording import Recorder
from robot_io.safety import SafetyLayer, SafetyLimits
from robot_io.teleoperation import Announcer, RecordingSession, Teleoperation
from robot_io.twin import TwinControl, TwinSettings, start_twin

_LINGER = 15  # ticks with success until an episode ends, so that a demonstration shows the goal
_APPROACH = 0.6
_FPS = 30


class View(NamedTuple):
    """Camera of the scene, and height and width of its images in pixels."""

    camera: str
    height: int
    width: int


class SceneSettings(Protocol):
    """Settings of a benchmark in the scene."""

    task: str
    seconds: float
    steps: int
    seed: int
    folder: Path


class Scene:
    """Twin in the scene of a task, with its judge, its scripted leader, and the limits of the safety layer.

    Args:
        settings: of the benchmark.
        twin: running.
        robot, safety: sections of the configuration.
        cube_sides: of the scene.
        patience_s: seconds of an episode until the leader steers, once it no longer does so all the time.
    """

    def __init__(
        self,
        settings: SceneSettings,
        twin: TwinControl,
        robot: dict[str, Any],
        safety: dict[str, Any],
        cube_sides: Sequence[float] | None,
        patience_s: float,
    ) -> None:
        self.settings, self.twin, self.robot = settings, twin, robot
        self.safety, self._patience_s = safety, patience_s
        self.leader = ScriptedLeader(twin, settings.task, self._is_active, cube_sides)
        self.steers = True
        self._judge = Judge(settings.task, cube_sides)
        self._done_ticks = 0

    def layer(self) -> SafetyLayer:
        return SafetyLayer(SafetyLimits.decode(self.safety))

    def episode(self, split: EpisodeSplit, index: int) -> Episode:
        """Episode of a split, which ends soon after success."""
        seed = episode_seed(split, self.settings.seed, index)
        return Episode(
            INSTRUCTIONS[self.settings.task],
            self.settings.seconds,
            self._judge.begin(seed).tolist(),
            self.settings.task,
            seed,
            lambda: self._lay_out(seed),
            self._is_done,
        )

    def _lay_out(self, seed: int) -> None:
        self._judge.begin(seed)
        self.leader.begin(seed)
        self.twin.reset(seed, move_arm=False)
        self._done_ticks, self._began = 0, time.monotonic()

    def _is_done(self) -> bool:
        self._done_ticks = self._done_ticks + 1 if self._judge.success(self.twin.state()) else 0
        return self._done_ticks >= _LINGER

    def _is_active(self, _: Mapping[str, Any]) -> bool:
        return self.steers or time.monotonic() - self._began > self._patience_s


@contextlib.contextmanager
def start_scene(
    settings: SceneSettings,
    cameras: Mapping[str, View],
    cube_sides: Sequence[float] | None = None,
    patience_s: float = 0.0,
) -> Iterator[Scene]:
    """Scene in a running twin for the block."""
    cfg = load_config("deploy", ["checkpoint=none", "robot=twin"])
    robot = as_dict(cfg.robot)
    robot["twin"]["scene_options"] = {"task": settings.task, "cube_sides": cube_sides}
    robot["cameras"] = {name: {"type": "twin", "fps": _FPS} | view._asdict() for name, view in cameras.items()}
    with start_twin(TwinSettings.from_config(robot, settings.seed, TwinScene)) as twin:
        yield Scene(settings, twin, robot, as_dict(cfg.safety), cube_sides, patience_s)


def recorder_of(scene: Scene, root: Path, of_policy: bool) -> Recorder:
    """Recorder of all cameras of a scene, at their own size."""
    layer = scene.layer()
    sizes = {name: (camera["height"], camera["width"]) for name, camera in scene.robot["cameras"].items()}
    return Recorder(root, layer.joints, sizes, layer.limits.rate_hz, "so_follower", of_policy)


def demonstrate(scene: Scene, root: Path, episodes: int) -> dict[str, Any]:
    """Record demonstrations of the scripted leader; failed attempts are not kept."""
    with Announcer() as announcer, recorder_of(scene, root, of_policy=False) as recorder:
        attempts = iter(range(10 * episodes))
        session = RecordingSession(
            lambda number: scene.episode("train", next(attempts)), episodes, recorder, announcer, 0.0
        )
        arm = make_arm(scene.robot, scene.twin)
        run = Teleoperation(arm, scene.leader, scene.layer(), session, [recorder], _APPROACH)
        report = run.run(root.parent / f"{root.name}-run")
    return {"attempts": len(report["episodes"]), "recording": _recorded(report), "timing": report["timing"]}


def train(settings: SceneSettings, run_dir: Path, *source: str) -> dict[str, Any]:
    """Train a policy, or go on with its run. source: settings of train.py; returns the minutes it took."""
    began = time.monotonic()
    command = [sys.executable, "train.py", *source, f"trainer.steps={settings.steps}", "eval.episodes=0", "logger=none"]
    command += [f"seed={settings.seed}", f"run_dir={run_dir}", f"data_dir={settings.folder / 'data'}"]
    begun = ["resume=true"] if (run_dir / "config.yaml").exists() else []
    subprocess.run([*command, *begun], cwd=ROOT, check=True)
    return {"minutes": round((time.monotonic() - began) / 60, 1)}


def deploy(scene: Scene, run_dir: Path, split: EpisodeSplit, count: int, root: Path | None = None) -> dict[str, Any]:
    """Deploy a policy on episodes of a split; root: of the recording, in which the scripted leader corrects it."""
    runner = load_arm_runner(run_dir, "cpu")
    scene.steers = False
    with contextlib.ExitStack() as stack:
        recorders = [] if root is None else [stack.enter_context(recorder_of(scene, root, of_policy=True))]
        operator = None if root is None else scene.leader
        arm = make_arm(scene.robot, scene.twin)
        run = Deployment(arm, runner, scene.layer(), list(recorders), operator, _APPROACH)
        folder = scene.settings.folder / f"{run_dir.name}-{split}"
        report = run.run([scene.episode(split, index) for index in range(count)], folder)
    figures = count_successes(report["episodes"]) | {"episodes": len(report["episodes"])}
    return figures | {"timing": report["timing"], "recording": _recorded(report)}


def _recorded(report: Mapping[str, Any]) -> dict[str, Any]:
    """Counts of a run's recording, without its folder; empty where nothing was recorded."""
    return {name: value for name, value in report.get("recording", {}).items() if name != "folder"}
