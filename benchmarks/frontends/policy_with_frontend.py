"""A policy with front-ends beside one without: same demonstrations, seeds and steps, among distractors and new rooms.

    uv run python -m benchmarks.frontends.policy_with_frontend          # trains TinySAM and TinyCLIP first
    uv run python -m benchmarks.frontends.policy_with_frontend sam=outputs/sam clip=outputs/clip steps=2500

Demonstrations are randomised (distractors, background, table texture), and the policies are evaluated on unseen seeds
as they are trained, and under shifts of the same kinds. Finished runs are never repeated: the same command resumes.

Writes results/front_end_policy.json and .md. The last line is one JSON object.
"""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from benchmarks.machine import ROOT, Machine, keep, markdown, once
from benchmarks.settings import as_values, setting, start
from configs.composing import as_dict
from envs import decode_env
from envs.evaluation import EvaluationOptions, evaluate
from envs.shifts import with_shift

RANDOMISED = ["distractors", "background", "table_texture"]
SHIFTS: tuple[list[str], ...] = ([], ["distractors", "background"])
TITLES = {
    "policy": "policy",
    "shift": "evaluated under",
    "success": "success",
    "ci95": "95% interval",
    "ms": "ms per action",
}


def train(run_dir: Path, *overrides: str) -> Path:
    """Folder of a finished run of train.py, started or resumed if it is not finished."""
    if (run_dir / "eval.json").is_file() or (run_dir / "trained").is_file():
        return run_dir
    rest = ["resume=true"] if (run_dir / "config.yaml").is_file() else list(overrides)
    subprocess.run([sys.executable, str(ROOT / "train.py"), f"run_dir={run_dir}", *rest], check=True)
    (run_dir / "trained").touch()
    return run_dir


def score(run_dir: Path, shift: list[str], severity: int, episodes: int) -> dict[str, Any]:
    """Success of a run's policy on unseen seeds, under a shift if there is one; stored in the run's folder."""
    file = run_dir / f"score-{'-'.join(shift) or 'none'}-{severity}-{episodes}.json"
    env_cfg = decode_env(as_dict(OmegaConf.load(run_dir / "config.yaml").env))
    env_cfg = with_shift(env_cfg, shift, severity) if shift else env_cfg
    return once(file, lambda: evaluate(run_dir, env_cfg, EvaluationOptions(episodes)))


@dataclass
class Settings:
    """Settings of the command line."""

    sam: Path | None = setting(None, "run folder of a TinySAM; null: one is trained")
    clip: Path | None = setting(None, "run folder of the TinyCLIP that picks; null: one is trained")
    gives: list[str] = setting(["mask", "tokens"], "outputs of TinySAM for the policy, one policy each")
    tasks: list[str] = setting(["button-press-topdown-v3", "drawer-open-v3"], "tasks and suites")
    demos: int = setting(25, "demonstrations per task")
    steps: int = setting(1000, "training steps of every policy")
    episodes: int = setting(20, "evaluation episodes per task")
    severity: int = setting(2, "severity of the shifts")
    seed: int = setting(0, "seed of data, training and evaluation")
    overrides: list[str] = setting([], "settings of train.py for every policy")
    work: Path = setting(Path("outputs/front-end-policy"), "folder of the runs")


def main(settings: Settings) -> None:
    quiet = ["logger=none", f"seed={settings.seed}"]
    sam = settings.sam or train(settings.work / "sam", "task=perception/tinysam", *quiet)
    clip = settings.clip or train(settings.work / "clip", "task=perception/tinyclip", *quiet)
    common = [f"randomise=[{','.join(RANDOMISED)}]", f"episodes={settings.demos}", f"trainer.steps={settings.steps}"]
    common += [
        f"env.tasks=[{','.join(settings.tasks)}]",
        "eval.episodes=0",
        "trainer.validate_every=0",
        *quiet,
        *settings.overrides,
    ]
    frontend = ["frontend=tinysam", f"frontend.tinysam.checkpoint={sam}", f"frontend.tinysam.picker={clip}"]
    policies: dict[str, list[str]] = {"without": []}
    policies |= {f"tinysam, {gives}": [*frontend, f"frontend.tinysam.gives={gives}"] for gives in settings.gives}

    rows = []
    for name, overrides in policies.items():
        run_dir = train(settings.work / name.replace(", ", "-"), *common, *overrides)
        for shift in SHIFTS:
            result = score(run_dir, shift, settings.severity, settings.episodes)
            low, high = result["ci95"]
            rows.append(
                {
                    "policy": name,
                    "shift": ", ".join(shift) or "nothing",
                    "success": f"{result['successes']}/{result['episodes']} ({100 * result['success_rate']:.1f}%)",
                    "ci95": f"{100 * low:.1f}–{100 * high:.1f}%",
                    "ms": f"{result['ms_per_action']:.2f}",
                    "figures": {key: result[key] for key in ("successes", "episodes", "ci95", "ms_per_action")},
                }
            )
    machine = Machine()
    description = (
        f"{', '.join(settings.tasks)}; {settings.demos} randomised demonstrations per task, {settings.steps} steps"
    )
    title = f"{machine.title(machine.cores)}; {description}"
    text = (
        f"{title}; severity {settings.severity}, {settings.episodes} unseen seeds per task\n\n{markdown(rows, TITLES)}"
    )
    result = machine.describe(machine.cores) | {
        "setting": {key: str(value) for key, value in as_values(settings).items()},
        "rows": rows,
    }
    keep("front_end_policy", result, text)
    print(text + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    start(main, Settings, __doc__)
