"""DAgger on the twin: demonstrations, a policy, its runs corrected by a scripted person, and a policy trained on both.

    uv run python -m benchmarks.real_arm.corrections
    uv run python -m benchmarks.real_arm.corrections demonstrations=3 corrections=2 evaluations=2 steps=20

A scripted leader (the simulation's expert) records demonstrations through the twin's serial port, the control loop and
the safety layer, as record.py does. A policy is trained on them and deployed. In further runs the leader takes over
where the policy has not succeeded after `patience_s`, until the end of the episode. A second policy is trained for as
many steps on demonstrations and corrections. Both are then deployed on the same evaluation scenes. Finished parts stay
in `folder`, so that the same command goes on. Writes results/corrections.json and .md.
"""

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.machine import Machine, keep, markdown, once, success
from benchmarks.real_arm.twin_scene import View, demonstrate, deploy, start_scene, train
from benchmarks.settings import setting, start
from envs.seeds import EpisodeSplit
from envs.so101.tasks import INSTRUCTIONS
from tinyvla.errors import UserError

SIZE = 96  # pixels
CAMERAS = {name: View(name, SIZE, SIZE) for name in ("front", "wrist")}


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


def record(settings: Settings, root: Path) -> dict[str, Any]:
    """Record the demonstrations."""
    with start_scene(settings, CAMERAS) as scene:
        return demonstrate(scene, root, settings.demonstrations)


def train_on(settings: Settings, run_dir: Path, *roots: Path) -> dict[str, Any]:
    """Train a policy on datasets; returns the minutes it took."""
    named = str(roots[0]) if len(roots) == 1 else f"[{','.join(map(str, roots))}]"
    source = ["env=so101", f"env.tasks=[{settings.task}]", f"dataset.root={named}", "trainer.validate_every=0"]
    return train(settings, run_dir, *source, f"dataset.correction_weight={settings.weight}", *settings.train)


def play(
    settings: Settings, run_dir: Path, split: EpisodeSplit, count: int, root: Path | None = None
) -> dict[str, Any]:
    """Deploy a policy in a scene of its own, see `deploy`."""
    with start_scene(settings, CAMERAS, patience_s=settings.patience_s) as scene:
        return deploy(scene, run_dir, split, count, root)


def main(settings: Settings) -> None:
    logging.disable(logging.WARNING)
    setting_texts = {name: str(value) for name, value in vars(settings).items()}
    folder = settings.folder = settings.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    demos, corrections = folder / "demonstrations", folder / "corrected"
    finished = folder / "parts"
    result: dict[str, Any] = Machine().describe(1) | {"settings": setting_texts}
    for root, part in ((demos, "demonstrations"), (corrections, "corrections")):
        if root.exists() and not (finished / f"{part}.json").exists():
            raise UserError(f"{root} is not whole; remove that folder and start again")
    result["demonstrations"] = once(finished / "demonstrations.json", lambda: record(settings, demos))
    first, second = folder / "demonstrations-only", folder / "with-corrections"
    result["first_training"] = once(finished / "first.json", lambda: train_on(settings, first, demos))
    result["corrections"] = once(
        finished / "corrections.json",
        lambda: play(settings, first, "validation", settings.corrections, corrections),
    )
    result["second_training"] = once(finished / "second.json", lambda: train_on(settings, second, demos, corrections))
    rows = []
    for run_dir in (first, second):
        figures = once(
            finished / f"evaluation-{run_dir.name}.json",
            lambda run_dir=run_dir: play(settings, run_dir, "evaluation", settings.evaluations),  # type: ignore[misc]
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
