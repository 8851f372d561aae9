"""A person's road on the twin: a recording of two webcams, a policy of it, and its deployment, beside the simulation's.

    uv run python -m benchmarks.real_arm.own_arm
    uv run python -m benchmarks.real_arm.own_arm episodes=2 evaluations=2 steps=20

A scripted leader (the simulation's expert) records demonstrations of picking up cubes of 2 to 6 cm through the serial
port, the control loop and the safety layer, as record.py does, with cameras of 640x480 pixels named laptop and phone.
train.py trains on them, and the policy is deployed on the same twin. A second policy is trained for as many steps on
as many demonstrations of env=so101 in the same scene, and deployed on the same evaluation episodes. Finished parts stay
in `folder`, so that the same command goes on. Writes results/own_arm.json and .md. The last line is one JSON object.
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
from typing import Any

import envs.rendering  # noqa: F401  selects MuJoCo's renderer, here and in the twin
from benchmarks.machine import ROOT, Machine, keep, markdown, once, success
from benchmarks.real_arm.corrections import Scene
from benchmarks.settings import setting, start
from configs.composing import as_dict, load_config
from envs.so101.tasks import INSTRUCTIONS
from envs.so101.twin import TwinScene
from robot_io.arms import make_arm
from robot_io.deployment import Deployment, load_arm_runner
from robot_io.deployment.episodes import count_successes
from robot_io.recording import Recorder
from robot_io.teleoperation import Announcer, RecordingSession, Teleoperation
from robot_io.twin import TwinSettings, start_twin
from tinyvla.errors import UserError

WEBCAMS = {"laptop": ("front", 480, 640), "phone": ("wrist", 480, 640)}  # camera of the scene, height and width by name
SIMULATED = {"front": ("front", 96, 96), "wrist": ("wrist", 96, 96)}
_APPROACH = 0.6


@dataclass
class Settings:
    """Settings of the command line."""

    task: str = setting("pick-lift", "of the scene", INSTRUCTIONS)
    episodes: int = setting(30, "demonstrations of either kind")
    evaluations: int = setting(50, "episodes of each policy")
    cube_sides: list[float] = setting([0.02, 0.06], "smallest and largest side of the cube in metres")
    patience_s: float = setting(0.0, "of the scripted leader, which steers from the start")
    seconds: float = setting(20.0, "greatest length of an episode")
    steps: int = setting(5000, "training steps of each policy")
    seed: int = setting(0, "of scenes and training")
    folder: Path = setting(Path("outputs/own_arm"), "datasets, runs and finished parts")


@contextlib.contextmanager
def start_scene(settings: Settings, cameras: Mapping[str, tuple[str, int, int]]) -> Iterator[Scene]:
    """Scene in a running twin for the block. cameras: camera of the scene, height and width by name."""
    cfg = load_config("deploy", ["checkpoint=none", "robot=twin"])
    robot = as_dict(cfg.robot)
    robot["twin"]["scene_options"] = {"task": settings.task, "cube_sides": settings.cube_sides}
    robot["cameras"] = {
        name: {"type": "twin", "camera": camera, "height": height, "width": width, "fps": 30}
        for name, (camera, height, width) in cameras.items()
    }
    with start_twin(TwinSettings.from_config(robot, settings.seed, TwinScene)) as twin:
        yield Scene(settings, twin, robot, as_dict(cfg.safety))


def record(settings: Settings, root: Path) -> dict[str, Any]:
    """Record the demonstrations; failed attempts are not kept. Minutes, megabytes and punctuality."""
    began = time.monotonic()
    with start_scene(settings, WEBCAMS) as scene, Announcer() as announcer, contextlib.ExitStack() as stack:
        layer = scene.layer()
        sizes = {name: (height, width) for name, (_, height, width) in WEBCAMS.items()}
        recorder = Recorder(root, layer.joints, sizes, layer.limits.rate_hz, "so_follower", of_policy=False)
        stack.enter_context(recorder)
        attempts = iter(range(10 * settings.episodes))
        session = RecordingSession(
            lambda number: scene.episode("train", next(attempts)), settings.episodes, recorder, announcer, 0.0
        )
        arm = make_arm(scene.robot, scene.twin)
        run = Teleoperation(arm, scene.leader, scene.layer(), session, [recorder], _APPROACH)
        report = run.run(root.parent / "recording")
    return _cost(began, root) | {"attempts": len(report["episodes"]), "timing": report["timing"]}


def train(settings: Settings, run_dir: Path, *source: str) -> dict[str, Any]:
    """Train a policy with further settings of train.py; the minutes it took."""
    began = time.monotonic()
    command = [sys.executable, "train.py", *source, f"trainer.steps={settings.steps}", "eval.episodes=0", "logger=none"]
    command += [f"seed={settings.seed}", f"run_dir={run_dir}", f"data_dir={settings.folder / 'data'}"]
    begun = ["resume=true"] if (run_dir / "config.yaml").exists() else []
    subprocess.run([*command, *begun], cwd=ROOT, check=True)
    return {"minutes": round((time.monotonic() - began) / 60, 1)}


def deploy(settings: Settings, run_dir: Path, cameras: Mapping[str, tuple[str, int, int]]) -> dict[str, Any]:
    """Deploy a policy on the evaluation episodes."""
    runner = load_arm_runner(run_dir, "cpu")
    with start_scene(settings, cameras) as scene:
        run = Deployment(make_arm(scene.robot, scene.twin), runner, scene.layer(), approach_speed=_APPROACH)
        episodes = [scene.episode("evaluation", index) for index in range(settings.evaluations)]
        report = run.run(episodes, settings.folder / f"{run_dir.name}-deployment")
    return count_successes(report["episodes"]) | {"episodes": len(report["episodes"]), "timing": report["timing"]}


def _cost(began: float, root: Path) -> dict[str, float]:
    size = sum(file.stat().st_size for file in root.rglob("*") if file.is_file())
    return {"minutes": round((time.monotonic() - began) / 60, 1), "megabytes": round(size / 1e6, 1)}


def main(settings: Settings) -> None:
    logging.disable(logging.WARNING)
    settings.folder = settings.folder.absolute()
    folder, finished = settings.folder, settings.folder / "parts"
    finished.mkdir(parents=True, exist_ok=True)
    recording, webcam_run, simulated_run = folder / "recording-of-webcams", folder / "webcams", folder / "simulated"
    if recording.exists() and not (finished / "recording.json").exists():
        raise UserError(f"{recording} is not whole; remove that folder and start again")
    result = Machine().describe(1) | {"settings": {name: str(value) for name, value in vars(settings).items()}}
    result["recording"] = once(finished / "recording.json", lambda: record(settings, recording))
    result["training"] = once(
        finished / "webcams.json", lambda: train(settings, webcam_run, f"dataset.root={recording}")
    )
    sides = ",".join(map(str, settings.cube_sides))
    demonstrations = ["env=so101", f"env.tasks=[{settings.task}]", f"env.cube_sides=[{sides}]"]
    demonstrations += [f"episodes={settings.episodes}", "trainer.validate_every=0"]
    result["simulated_training"] = once(
        finished / "simulated.json", lambda: train(settings, simulated_run, *demonstrations)
    )
    rows = []
    for run_dir, cameras in ((webcam_run, WEBCAMS), (simulated_run, SIMULATED)):
        figures = once(
            finished / f"deployment-{run_dir.name}.json",
            lambda run_dir=run_dir, cameras=cameras: deploy(settings, run_dir, cameras),  # type: ignore[misc]
        )
        result[run_dir.name] = figures
        rows.append({"policy": run_dir.name, "success": success(figures)})
    table = markdown(rows, {"policy": "demonstrations", "success": "success on the twin"})
    title = f"{Machine().title(1)}; {settings.episodes} demonstrations, {settings.steps} steps"
    keep("own_arm", result, f"{title}\n\n{table}")
    print(json.dumps({row["policy"]: row["success"] for row in rows}))


if __name__ == "__main__":
    start(main, Settings, __doc__)
