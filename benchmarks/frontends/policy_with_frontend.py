"""A policy with front-ends beside one without: same demonstrations, seeds and steps, among distractors and new rooms.

    uv run benchmarks/perception/front_end_policy.py          # trains TinySAM and TinyCLIP first
    uv run benchmarks/perception/front_end_policy.py --sam outputs/sam --clip outputs/clip --tasks default --steps 2500

Demonstrations are randomised (distractors, background, table texture), and the policies are evaluated on unseen seeds
as they are trained, and under shifts of the same kinds. What is finished is never run again: the same command goes on
where it was stopped.

Writes results/front_end_policy.json and .md. The last line is one JSON object.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from benchmarks.machine import Machine, keep, markdown
from configs.composing import as_dict
from envs import decode_env
from envs.evaluation import EvaluationOptions, evaluate
from envs.shifts import with_shift

ROOT = Path(__file__).resolve().parents[2]
RANDOMISED = ["distractors", "background", "table_texture"]
SHIFTS: tuple[list[str], ...] = ([], ["distractors", "background"])
TITLES = {
    "policy": "policy",
    "shift": "evaluated under",
    "success": "success",
    "ci95": "95% interval",
    "ms": "ms an action",
}


def train(run_dir: Path, *settings: str) -> Path:
    """A finished run of train.py, gone on with where it was stopped."""
    if (run_dir / "eval.json").is_file() or (run_dir / "trained").is_file():
        return run_dir
    rest = ["resume=true"] if (run_dir / "config.yaml").is_file() else list(settings)
    subprocess.run([sys.executable, str(ROOT / "train.py"), f"run_dir={run_dir}", *rest], check=True)
    (run_dir / "trained").touch()
    return run_dir


def score(run_dir: Path, shift: list[str], severity: int, episodes: int) -> dict[str, Any]:
    """Success of a run's policy on unseen seeds, under a shift if there is one; kept beside the run."""
    kept = run_dir / f"score-{'-'.join(shift) or 'none'}-{severity}-{episodes}.json"
    if not kept.is_file():
        env_cfg = decode_env(as_dict(OmegaConf.load(run_dir / "config.yaml").env))
        env_cfg = with_shift(env_cfg, shift, severity) if shift else env_cfg
        kept.write_text(json.dumps(evaluate(run_dir, env_cfg, EvaluationOptions(episodes))))
    return json.loads(kept.read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sam", type=Path, help="run folder of a TinySAM; default: one is trained")
    parser.add_argument("--clip", type=Path, help="run folder of the TinyCLIP that picks; default: one is trained")
    parser.add_argument(
        "--gives", nargs="+", default=["mask", "tokens"], help="what TinySAM adds (default: %(default)s)"
    )
    tasks = ["button-press-topdown-v3", "drawer-open-v3"]
    parser.add_argument("--tasks", nargs="+", default=tasks, help="tasks and suites (default: %(default)s)")
    parser.add_argument("--demos", type=int, default=25, help="a task (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=1000, help="of both policies (default: %(default)s)")
    parser.add_argument("--episodes", type=int, default=20, help="of evaluation a task (default: %(default)s)")
    parser.add_argument("--severity", type=int, default=2, help="of the shifts (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], help="a further setting of train.py, for both policies")
    parser.add_argument("--work", type=Path, default=Path("outputs/front-end-policy"), help="where runs are kept")
    args = parser.parse_args()

    quiet = ["logger=none", f"seed={args.seed}"]
    sam = args.sam or train(args.work / "sam", "task=perception/tinysam", *quiet)
    clip = args.clip or train(args.work / "clip", "task=perception/tinyclip", *quiet)
    common = [f"randomise=[{','.join(RANDOMISED)}]", f"episodes={args.demos}", f"trainer.steps={args.steps}"]
    common += [f"env.tasks=[{','.join(args.tasks)}]", "eval.episodes=0", "trainer.validate_every=0", *quiet, *args.set]
    sees = ["frontend=tinysam", f"frontend.tinysam.checkpoint={sam}", f"frontend.tinysam.picker={clip}"]
    policies: dict[str, list[str]] = {"without": []}
    policies |= {f"tinysam, {gives}": [*sees, f"frontend.tinysam.gives={gives}"] for gives in args.gives}

    rows = []
    for name, settings in policies.items():
        run_dir = train(args.work / name.replace(", ", "-"), *common, *settings)
        for shift in SHIFTS:
            result = score(run_dir, shift, args.severity, args.episodes)
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
    setting = f"{', '.join(args.tasks)}; {args.demos} randomised demonstrations a task, {args.steps} steps"
    title = f"{machine.title(machine.cores)}; {setting}"
    text = f"{title}; severity {args.severity}, {args.episodes} unseen seeds a task\n\n{markdown(rows, TITLES)}"
    result = machine.describe(machine.cores) | {"setting": {k: str(v) for k, v in vars(args).items()}, "rows": rows}
    keep("front_end_policy", result, text)
    print(text + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
