"""A person's road on the twin: a recording of two webcams, a policy of it, and its deployment, beside the simulation's.

    uv run python -m benchmarks.real_arm.own_arm
    uv run python -m benchmarks.real_arm.own_arm episodes=2 evaluations=2 steps=20

A scripted leader (the simulation's expert) records demonstrations of picking up cubes of 2 to 6 cm through the serial
port, the control loop and the safety layer, as record.py does, with cameras of 640x480 pixels named laptop and phone.
train.py trains on them, and the policy is deployed on the same twin. A second policy is trained for as many steps on
as many demonstrations of env=so101 in the same scene, and deployed on the same evaluation episodes. Finished parts stay
in `folder`, so that the same command goes on. Writes results/own_arm.json and .md. The last line is one JSON object.
"""

import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.machine import Machine, keep, markdown, once, success
from benchmarks.real_arm.twin_scene import View, demonstrate, deploy, start_scene, train
from benchmarks.settings import setting, start
from envs.so101.tasks import INSTRUCTIONS
from tinyvla.errors import UserError

WEBCAMS = {"laptop": View("front", 480, 640), "phone": View("wrist", 480, 640)}
SIMULATED = {name: View(name, 96, 96) for name in ("front", "wrist")}


@dataclass
class Settings:
    """Settings of the command line."""

    task: str = setting("pick-lift", "of the scene", INSTRUCTIONS)
    episodes: int = setting(30, "demonstrations of either kind")
    evaluations: int = setting(50, "episodes of each policy")
    cube_sides: list[float] = setting([0.02, 0.06], "smallest and largest side of the cube in metres")
    seconds: float = setting(20.0, "greatest length of an episode")
    steps: int = setting(5000, "training steps of each policy")
    train: list = setting([], "further settings of train.py")
    seed: int = setting(0, "of scenes and training")
    folder: Path = setting(Path("outputs/own_arm"), "datasets, runs and finished parts")


def record(settings: Settings, root: Path) -> dict[str, Any]:
    """Record the demonstrations: minutes, megabytes and punctuality."""
    began = time.monotonic()
    with start_scene(settings, WEBCAMS, settings.cube_sides) as scene:
        figures = demonstrate(scene, root, settings.episodes)
    size = sum(file.stat().st_size for file in root.rglob("*") if file.is_file())
    return figures | {"minutes": round((time.monotonic() - began) / 60, 1), "megabytes": round(size / 1e6, 1)}


def play(settings: Settings, run_dir: Path, cameras: Mapping[str, View]) -> dict[str, Any]:
    """Deploy a policy on the evaluation episodes."""
    with start_scene(settings, cameras, settings.cube_sides) as scene:
        return deploy(scene, run_dir, "evaluation", settings.evaluations)


def main(settings: Settings) -> None:
    logging.disable(logging.WARNING)
    setting_texts = {name: str(value) for name, value in vars(settings).items()}
    settings.folder = settings.folder.absolute()
    folder, finished = settings.folder, settings.folder / "parts"
    finished.mkdir(parents=True, exist_ok=True)
    recording, webcam_run, simulated_run = folder / "recording-of-webcams", folder / "webcams", folder / "simulated"
    if recording.exists() and not (finished / "recording.json").exists():
        raise UserError(f"{recording} is not whole; remove that folder and start again")
    result = Machine().describe(1) | {"settings": setting_texts}
    result["recording"] = once(finished / "recording.json", lambda: record(settings, recording))
    result["training"] = once(
        finished / "webcams.json", lambda: train(settings, webcam_run, f"dataset.root={recording}", *settings.train)
    )
    sides = ",".join(map(str, settings.cube_sides))
    demonstrations = ["env=so101", f"env.tasks=[{settings.task}]", f"env.cube_sides=[{sides}]"]
    demonstrations += [f"episodes={settings.episodes}", "trainer.validate_every=0"]
    result["simulated_training"] = once(
        finished / "simulated.json", lambda: train(settings, simulated_run, *demonstrations, *settings.train)
    )
    rows = []
    for run_dir, cameras in ((webcam_run, WEBCAMS), (simulated_run, SIMULATED)):
        figures = once(
            finished / f"deployment-{run_dir.name}.json",
            lambda run_dir=run_dir, cameras=cameras: play(settings, run_dir, cameras),  # type: ignore[misc]
        )
        result[run_dir.name] = figures
        rows.append({"policy": run_dir.name, "success": success(figures)})
    table = markdown(rows, {"policy": "demonstrations", "success": "success on the twin"})
    title = f"{Machine().title(1)}; {settings.episodes} demonstrations, {settings.steps} steps"
    keep("own_arm", result, f"{title}\n\n{table}")
    print(json.dumps({row["policy"]: row["success"] for row in rows}))


if __name__ == "__main__":
    start(main, Settings, __doc__)
