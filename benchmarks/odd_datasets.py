"""Odd recordings through train.py and deploy.py: works right, or one clear line and nothing left behind.

    uv run python -m benchmarks.odd_datasets
    uv run python -m benchmarks.odd_datasets kinds=[nan_in_state,webcams] policies=[tinyvla,act]

Every kind of `benchmarks.odd_recordings` is recorded, trained on for a few steps with each policy, and what has trained
is deployed on the twin as a dry run. A trial is right if training ends with exit code 0 and prints the line that the
kind asks for, or ends with exit code 2, one line on stderr and no run folder; and if deployment plays, or is refused
with exit code 2 and the line that the kind asks for.

Finished trials are kept in results/odd_datasets.json, and the same command goes on. A trial takes 10 to 40 seconds.
"""

import re
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness import POLICIES
from benchmarks.machine import ROOT, Machine, keep, markdown, read_kept
from benchmarks.odd_recordings import KINDS, Kind, write_kind
from benchmarks.settings import as_values, setting, start
from tinyvla.errors import one_line

STEPS = 4
TRAINING = [
    *("preset=cpu", f"trainer.steps={STEPS}", "trainer.batch_size=4", "trainer.num_threads=1", "trainer.bf16=false"),
    *("trainer.validate_every=0", "eval.episodes=0", "logger=none"),
]
SMALL = {
    "tinyvla": ["backbone.image_size=32"],
    "vqbet": ["policy.n_vqvae_training_steps=2"],
}
DEPLOYMENT = ["env.tasks=[reach]", "env.max_steps=10", "dry_run=true", "record=false", "device=cpu"]
TITLES = {
    "kind": "recording",
    "policy": "policy",
    "training": "train.py",
    "line": "line",
    "deployment": "deploy.py on the twin, dry run",
    "right": "as it should",
}
_LINES = re.compile(r"^(?:warning: |error: |motionless ).*", re.MULTILINE)
_LONGEST = 160  # letters of a line in the table


@dataclass
class Settings:
    kinds: list[str] = setting(list(KINDS), "kinds of recording", KINDS)
    policies: list[str] = setting(["tinyvla"], "choices of policy of train.py", POLICIES)


def main(settings: Settings) -> None:
    conditions = {"asked": {"steps": STEPS, "machine": Machine().summary}}
    result = read_kept("odd_datasets", conditions["asked"]) or {**conditions, **Machine().describe(1), "trials": {}}
    with tempfile.TemporaryDirectory() as folder:
        for name in settings.kinds:
            for policy in settings.policies:
                if f"{name} {policy}" not in result["trials"]:
                    result["trials"][f"{name} {policy}"] = {"kind": name, "policy": policy} | trial(
                        name, policy, Path(folder)
                    )
                    keep("odd_datasets", {**result, "settings": as_values(settings)}, table(result))
    print(table(result))


def trial(name: str, policy: str, folder: Path) -> dict[str, Any]:
    """Outcome of one kind of recording with one policy."""
    kind, run_dir = KINDS[name], folder / f"{name}-{policy}"
    root = folder / name
    if not root.exists():
        write_kind(name, folder)
    arguments = [f"policy={policy}", f"dataset.root={root}", f"run_dir={run_dir}", *TRAINING, *SMALL.get(policy, [])]
    training = run("train.py", [*arguments, *kind.settings])
    lines = _LINES.findall(training.stdout + training.stderr)
    is_refused = training.returncode == 2 and len(training.stderr.splitlines()) == 1 and not run_dir.exists()
    trains = training.returncode == 0 if kind.trains is None else kind.trains
    right = training.returncode == 0 if trains else is_refused
    deployment = "-"
    if training.returncode == 0:
        deployed = run("deploy.py", [f"checkpoint={run_dir}", f"run_dir={run_dir}-deployed", *DEPLOYMENT])
        deployment = "plays" if deployed.returncode == 0 else one_line(deployed.stderr.strip() or "ends", _LONGEST)
        right &= deploys(kind, deployed)
    return {
        "training": "trains" if training.returncode == 0 else "refuses" if is_refused else "fails",
        "line": one_line(lines[0], _LONGEST).replace(str(folder), "") if lines else "",
        "deployment": deployment.replace(str(folder), ""),
        "right": "yes" if right and says_so(kind, policy, lines) else "no",
    }


def says_so(kind: Kind, policy: str, lines: list[str]) -> bool:
    """True if the kind's line was printed, or none where it asks for none."""
    about = [line for line in lines if "reads no instructions" not in line]
    if kind.says is None:
        return not about or kind.trains is None
    return any(re.search(kind.says, line) for line in lines) or about != lines


def deploys(kind: Kind, deployed: "subprocess.CompletedProcess[str]") -> bool:
    """True if the twin plays the policy, or refuses it with the kind's line and no other."""
    if kind.deploys is None:
        return deployed.returncode == 0 and "Traceback" not in deployed.stderr
    lines = deployed.stderr.splitlines()
    return deployed.returncode == 2 and len(lines) == 1 and re.search(kind.deploys, lines[0]) is not None


def run(program: str, arguments: list[str]) -> "subprocess.CompletedProcess[str]":
    """An entry point with its output."""
    return subprocess.run([sys.executable, program, *arguments], cwd=ROOT, capture_output=True, text=True)


def table(result: dict[str, Any]) -> str:
    """Markdown of all trials."""
    trials = list(result["trials"].values())
    counts = Counter(trial["right"] for trial in trials)
    rows = [{key: str(value).replace("|", "\\|") for key, value in trial.items()} for trial in trials]
    head = f"{counts['yes']} of {len(trials)} as they should. {Machine().title(1)}"
    return f"{head}\n\n{markdown(rows, TITLES)}"


if __name__ == "__main__":
    start(main, Settings, __doc__)
