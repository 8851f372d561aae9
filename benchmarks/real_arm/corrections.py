"""DAgger on the twin: demonstrations, a policy, its runs corrected by a scripted person, and a policy trained on both.

    uv run python -m benchmarks.real_arm.corrections
    uv run python -m benchmarks.real_arm.corrections demonstrations=3 corrections=2 evaluations=2 steps=20

A scripted leader (the simulation's expert) records demonstrations through the twin's serial port, the control loop and
the safety layer, as record.py does. A policy is trained on them and deployed. In further runs the leader takes over
where the policy has not succeeded after `patience_s`, until the end of the episode. A second policy is trained for as
many steps on demonstrations and corrections. Both are then deployed on the same evaluation scenes. Finished parts stay
in `folder`, so that the same command goes on. Writes results/corrections.json and .md.
"""

import contextlib
import json
import logging
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import envs.rendering  # noqa: F401  selects MuJoCo's renderer, here and in the twin
from benchmarks.machine import ROOT, Machine, keep, markdown, once, success
from benchmarks.real_arm.scripted_leader import ScriptedLeader
from benchmarks.settings import setting, start
from configs.composing import as_dict, load_config
from envs.seeds import EpisodeSplit, episode_seed
from envs.so101.tasks import INSTRUCTIONS
from envs.so101.twin import Judge, TwinScene
from robot_io.arms import make_arm, with_twin_cameras
from robot_io.deployment import Deployment, Episode, load_arm_runner
from robot_io.deployment.episodes import count_successes
from robot_io.recording import Recorder
from robot_io.safety import SafetyLayer, SafetyLimits
from robot_io.teleoperation import Announcer, RecordingSession, Teleoperation
from robot_io.twin import TwinControl, TwinSettings, start_twin
from tinyvla.errors import UserError

SIZE = 96  # pixels
_LINGER = 15  # ticks with success until an episode ends, so that a demonstration shows the goal
_APPROACH = 0.6


@dataclass
class Settings:
    """Settings of the command line."""

    task: str = setting("pick-lift", "of the scene", INSTRUCTIONS)
    demonstrations: int = setting(30, "episodes of the scripted leader")
    corrections: int = setting(30, "episodes in which it corrects the policy")
    evaluations: int = setting(100, "episodes of each policy")
    weight: int = setting(2, "how often a corrected frame counts")
    patience_s: float = setting(8.0, "seconds without success until the leader takes over")
    seconds: float = setting(20.0, "greatest length of an episode")
    steps: int = setting(8000, "training steps of each policy")
    train: list = setting([], "further settings of train.py")
    seed: int = setting(0, "of scenes and training")
    folder: Path = setting(Path("outputs/corrections"), "datasets, runs and finished parts")


class SceneSettings(Protocol):
    """Settings of a benchmark in the twin's scene."""

    task: str
    patience_s: float
    seconds: float
    seed: int


class Scene:
    """Twin in the scene of a task, with its judge, its scripted leader, and the limits of the safety layer."""

    def __init__(
        self, settings: SceneSettings, twin: TwinControl, robot: dict[str, Any], safety: dict[str, Any]
    ) -> None:
        self.settings, self.twin, self.robot = settings, twin, robot
        self.safety = safety
        cube_sides = robot["twin"]["scene_options"].get("cube_sides")
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
        return self.steers or time.monotonic() - self._began > self.settings.patience_s


@contextlib.contextmanager
def start_scene(settings: Settings) -> Iterator[Scene]:
    """Scene in a running twin for the block."""
    cfg = load_config("deploy", ["checkpoint=none", "robot=twin", f"robot.twin.scene_options.task={settings.task}"])
    robot = with_twin_cameras(as_dict(cfg.robot), {"front": (SIZE, SIZE), "wrist": (SIZE, SIZE)})
    with start_twin(TwinSettings.from_config(robot, settings.seed, TwinScene)) as twin:
        yield Scene(settings, twin, robot, as_dict(cfg.safety))


def recorder_of(scene: Scene, root: Path, of_policy: bool) -> Recorder:
    layer = scene.layer()
    sizes = {"front": (SIZE, SIZE), "wrist": (SIZE, SIZE)}
    return Recorder(root, layer.joints, sizes, layer.limits.rate_hz, "so_follower", of_policy)


def demonstrate(settings: Settings, root: Path) -> dict[str, Any]:
    """Record the demonstrations; failed attempts are not kept."""
    with (
        start_scene(settings) as scene,
        Announcer() as announcer,
        recorder_of(scene, root, of_policy=False) as recorder,
    ):
        attempts = iter(range(10 * settings.demonstrations))
        session = RecordingSession(
            lambda number: scene.episode("train", next(attempts)), settings.demonstrations, recorder, announcer, 0.0
        )
        arm = make_arm(scene.robot, scene.twin)
        run = Teleoperation(arm, scene.leader, scene.layer(), session, [recorder], _APPROACH)
        report = run.run(root.parent / "demonstrating")
    return {"attempts": len(report["episodes"]), "recording": report["recording"], "timing": report["timing"]}


def train(settings: Settings, run_dir: Path, *roots: Path) -> dict[str, Any]:
    """Train a policy on datasets; returns the minutes it took."""
    named = str(roots[0]) if len(roots) == 1 else f"[{','.join(map(str, roots))}]"
    began = time.monotonic()
    command = [sys.executable, "train.py", "env=so101", f"env.tasks=[{settings.task}]", f"dataset.root={named}"]
    command += [f"dataset.correction_weight={settings.weight}", f"trainer.steps={settings.steps}", "eval.episodes=0"]
    command += ["trainer.validate_every=0", "logger=none", f"seed={settings.seed}", f"run_dir={run_dir}", "resume=true"]
    subprocess.run([*command, f"data_dir={settings.folder / 'data'}", *settings.train], cwd=ROOT, check=True)
    return {"minutes": round((time.monotonic() - began) / 60, 1)}


def deploy(settings: Settings, run_dir: Path, split: EpisodeSplit, count: int, root: Path | None) -> dict[str, Any]:
    """Deploy a policy; root: of the recording, in which the scripted leader corrects it."""
    runner = load_arm_runner(run_dir, "cpu")
    with start_scene(settings) as scene, contextlib.ExitStack() as stack:
        scene.steers = False
        observers: list[Any] = []
        if root is not None:
            observers.append(stack.enter_context(recorder_of(scene, root, of_policy=True)))
        operator = scene.leader if root is not None else None
        arm = make_arm(scene.robot, scene.twin)
        run = Deployment(arm, runner, scene.layer(), observers, operator, _APPROACH)
        folder = settings.folder / f"{run_dir.name}-{split}"
        report = run.run([scene.episode(split, index) for index in range(count)], folder)
    figures = count_successes(report["episodes"]) | {"episodes": len(report["episodes"])}
    return figures | {"timing": report["timing"], "recording": report.get("recording")}


def main(settings: Settings) -> None:
    logging.disable(logging.WARNING)
    folder = settings.folder.absolute()
    settings.folder = folder
    folder.mkdir(parents=True, exist_ok=True)
    demos, corrections = folder / "demonstrations", folder / "corrected"
    finished = folder / "parts"
    result: dict[str, Any] = Machine().describe(1) | {"settings": {k: str(v) for k, v in vars(settings).items()}}
    for root, part in ((demos, "demonstrations"), (corrections, "corrections")):
        if root.exists() and not (finished / f"{part}.json").exists():
            raise UserError(f"{root} is not whole; remove that folder and start again")
    result["demonstrations"] = once(finished / "demonstrations.json", lambda: demonstrate(settings, demos))
    first, second = folder / "demonstrations-only", folder / "with-corrections"
    result["first_training"] = once(finished / "first.json", lambda: train(settings, first, demos))
    result["corrections"] = once(
        finished / "corrections.json",
        lambda: deploy(settings, first, "validation", settings.corrections, corrections),
    )
    result["second_training"] = once(finished / "second.json", lambda: train(settings, second, demos, corrections))
    rows = []
    for run_dir in (first, second):
        figures = once(
            finished / f"evaluation-{run_dir.name}.json",
            lambda run_dir=run_dir: deploy(settings, run_dir, "evaluation", settings.evaluations, None),  # type: ignore[misc]
        )
        result[run_dir.name] = figures
        rows.append({"policy": run_dir.name, "success": success(figures)})
    keep(
        "corrections",
        result,
        f"{Machine().title(1)}\n\n{markdown(rows, {'policy': 'trained on', 'success': 'success'})}",
    )
    print(json.dumps(result))


if __name__ == "__main__":
    start(main, Settings, __doc__)
