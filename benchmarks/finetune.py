"""Fine-tuning against a start from scratch: the same few recordings, the same number of steps.

    uv run python -m benchmarks.finetune
    uv run python -m benchmarks.finetune steps=[20] pretraining_steps=40 seeds=[0] episodes=3   # whether it works

One policy is trained on demonstrations of the SO-101's simulation with the cameras front and wrist. Then policies are
trained on a few demonstrations of other seeds with the cameras top and wrist, as a person's own recordings: from
scratch, and with `init_from` of the first one. Both are judged by their error on held-out episodes and, since this
scene has a simulator, by their success in closed loop. The simulated scene is the same, so that the figures are an
upper bound of what pre-training in simulation gives on a real arm.

Finished runs are never repeated: the same command goes on. Writes results/finetune.json and .md beside this file.
"""

import hashlib
import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness import prepare_data
from benchmarks.machine import ROOT, Machine, keep, markdown, warn_if_busy
from benchmarks.settings import as_values, setting, start
from tinyvla.intervals import wilson_interval

SIMULATED, OWN = "env.cameras=[front,wrist]", "env.cameras=[top,wrist]"
SCRATCH, TUNED = "from scratch", "init_from"


@dataclass
class Settings:
    """Settings of the command line."""

    task: str = setting("pick-lift", "task of env=so101")
    pretraining_demos: int = setting(100, "demonstrations of the first policy")
    pretraining_steps: int = setting(3000, "steps of the first policy")
    demos: int = setting(20, "demonstrations with the other cameras, a tenth of which are held out")
    steps: list[int] = setting([250, 500, 1000, 2000], "steps on them")
    seeds: list[int] = setting([0, 1], "seeds of training")
    episodes: int = setting(50, "episodes in closed loop per policy")
    overrides: list[str] = setting([], "settings of train.py for every policy, such as [backbone=film]")
    work: Path = setting(Path("outputs/finetune"), "folder of the runs")


@dataclass(frozen=True)
class Study:
    """Runs of train.py and evaluate.py in a folder that depends on what they share."""

    settings: Settings

    @property
    def folder(self) -> Path:
        shared = asdict(self.settings) | {"steps": None, "seeds": None, "episodes": None, "work": None}
        digest = hashlib.sha256(json.dumps(shared, sort_keys=True, default=str).encode()).hexdigest()[:8]
        return ROOT / self.settings.work / digest

    @property
    def common(self) -> list[str]:
        quiet = ["logger=none", "trainer.validate_every=0"]
        return ["env=so101", f"env.tasks=[{self.settings.task}]", *quiet, *self.settings.overrides]

    def pretrained(self) -> Path:
        """Run folder of the first policy."""
        folder, settings = self.folder / "pretrained", self.settings
        run = [f"episodes={settings.pretraining_demos}", f"trainer.steps={settings.pretraining_steps}"]
        _train(folder, [*self.common, SIMULATED, *run, "eval.episodes=0"])
        return folder

    def recordings(self) -> Path:
        """Dataset with the other cameras."""
        return prepare_data([*self.common, OWN, f"episodes={self.settings.demos}", "seed=1"])

    def figures(self, start_from: str, steps: int, seed: int) -> dict[str, Any]:
        """Error and success of a policy of the recordings."""
        name = f"{start_from.replace(' ', '-')}-{steps}-{seed}"
        folder = self.folder / name
        run = [f"dataset.root={self.recordings()}", "dataset.held_out=0.1", f"trainer.steps={steps}", f"seed={seed}"]
        run += [f"init_from={self.pretrained()}"] if start_from == TUNED else []
        _train(folder, [*self.common, OWN, *run])
        played = self.folder / f"{name}-{self.settings.episodes}-episodes"
        if not (played / "eval.json").exists():
            env = ["env=so101", f"env.tasks=[{self.settings.task}]", OWN]
            _run(
                "evaluate.py", played, [f"checkpoint={folder}", *env, f"episodes={self.settings.episodes}", "videos=0"]
            )
        offline, closed_loop = (json.loads((place / "eval.json").read_text()) for place in (folder, played))
        return {
            "start": start_from,
            "steps": steps,
            "seed": seed,
            "action_error": offline["action_error"],
            "successes": closed_loop["successes"],
            "episodes": closed_loop["episodes"],
        }


def _train(folder: Path, settings: list[str]) -> None:
    """Train unless that has been done; an unfinished run is resumed."""
    is_evaluated = "eval.episodes=0" not in settings
    finished = folder / ("eval.json" if is_evaluated else "finished")
    if finished.exists():
        return
    _run("train.py", folder, ["resume=true"] if (folder / "config.yaml").exists() else settings)
    finished.touch()


def _run(script: str, folder: Path, settings: list[str]) -> None:
    log = folder.with_name(f"{folder.name}.log")
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, script, f"run_dir={folder}", *settings]
    print(f"{script} {folder.name}, see {log}", file=sys.stderr, flush=True)
    with log.open("a") as output:
        if subprocess.run(command, cwd=ROOT, stdout=output, stderr=output).returncode:
            raise SystemExit(f"error: {' '.join(command)} failed; the end of {log} says why")


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown with a row per start and number of steps, over all seeds."""
    lines = []
    for steps in dict.fromkeys(row["steps"] for row in rows):
        for start_from in (SCRATCH, TUNED):
            cells = [row for row in rows if (row["start"], row["steps"]) == (start_from, steps)]
            successes, episodes = (sum(cell[key] for cell in cells) for key in ("successes", "episodes"))
            low, high = wilson_interval(successes, episodes)
            error = ", ".join(f"{cell['action_error']:.2f}" for cell in cells)
            success = f"{successes}/{episodes} ({100 * low:.0f}–{100 * high:.0f}%)"
            lines.append({"steps": steps, "start": start_from, "error": error, "success": success})
    titles = {"error": "error on held-out episodes, by seed", "success": "success in closed loop (95% interval)"}
    return markdown(lines, {"steps": "steps", "start": "start"} | titles)


def main(settings: Settings) -> None:
    machine, study = Machine(), Study(settings)
    load = warn_if_busy("the figures stay the same, the run takes longer")
    cells = [
        (start_from, steps, seed)
        for steps in settings.steps
        for seed in settings.seeds
        for start_from in (SCRATCH, TUNED)
    ]
    rows = [study.figures(*cell) for cell in cells]
    title = (
        f"{machine.title(machine.cores)}; {settings.task}; pre-training: {settings.pretraining_demos} demonstrations, "
        f"{settings.pretraining_steps} steps, cameras front and wrist; then {settings.demos} demonstrations, cameras "
        f"top and wrist; {settings.episodes} unseen seeds per policy"
    )
    text = f"{title}\n\n{table(rows)}"
    keep(
        "finetune", machine.describe(machine.cores) | {"load": load, "setting": as_values(settings), "rows": rows}, text
    )
    print(text)


if __name__ == "__main__":
    start(main, Settings, __doc__)
