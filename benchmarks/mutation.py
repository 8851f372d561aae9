"""Mutation testing of the modules that decide: each of their lines is broken, and a fast test should fail.

    uv run python -m benchmarks.mutation
    uv run python -m benchmarks.mutation modules=[envs/seeds.py,tinyvla/intervals.py]

A mutant is tried with the tests that run its statement, and if these pass, with all tests of its module below.
Finished mutants are kept in outputs/mutation, and the same command goes on; once tests have changed, it tries the
survivors again. A survivor that no test should kill has its reason in benchmarks/survivors.yaml.
"""

import hashlib
import json
import sys
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.machine import ROOT, Machine, keep, markdown, read_kept
from benchmarks.mutant_runs import KILLED, SURVIVED, TIMED_OUT, try_mutant, warm_up
from benchmarks.mutants import make_mutants
from benchmarks.own_process import in_own_process
from benchmarks.settings import setting, start
from tinyvla.files import write_whole

WORK, REASONS = ROOT / "outputs/mutation", ROOT / "benchmarks/survivors.yaml"
_SAFETY = "tests/robot_io/test_safety"
# The tests of each module.
MODULES: dict[str, list[str]] = {
    "envs/seeds.py": ["tests/envs/test_seeds.py"],
    "tinyvla/intervals.py": ["tests/tinyvla/test_intervals.py"],
    "envs/eval_results.py": ["tests/envs/test_evaluation.py"],
    "envs/evaluation.py": ["tests/envs/test_evaluation.py", "tests/envs/test_episode_journal.py"],
    "envs/episode_journal.py": ["tests/envs/test_episode_journal.py"],
    "tinyvla/arms/units.py": ["tests/tinyvla/test_units.py"],
    "policies/data/units.py": ["tests/tinyvla/test_units.py", "tests/policies/test_odd_recordings.py"],
    "policies/pipelines.py": ["tests/policies/test_untrusted_checkpoints.py", "tests/policies/test_checkpoints.py"],
    "policies/asynchronous.py": ["tests/policies/test_asynchronous.py"],
    "robot_io/safety/layer.py": [f"{_SAFETY}_{part}.py" for part in ("layer", "holds", "inputs", "motion")],
    "robot_io/safety/planner.py": [f"{_SAFETY}_{part}.py" for part in ("motion", "limits", "layer")],
    "robot_io/safety/motion.py": [f"{_SAFETY}_{part}.py" for part in ("motion", "layer")],
    "robot_io/safety/monitors.py": [f"{_SAFETY}_{part}.py" for part in ("holds", "inputs", "layer")],
    "robot_io/safety/readings.py": [f"{_SAFETY}_{part}.py" for part in ("readings", "inputs")],
    "robot_io/safety/limits.py": [f"{_SAFETY}_{part}.py" for part in ("limits", "inputs", "layer")],
    "robot_io/feetech/protocol.py": ["tests/robot_io/test_line.py", "tests/robot_io/test_twin_servo.py"],
    "policies/remote/wire.py": ["tests/policies/test_remote.py"],
    "tinyvla/training/checkpoint.py": ["tests/policies/test_checkpoints.py", "tests/policies/test_training_loop.py"],
    "tinyvla/files.py": ["tests/tinyvla/test_files.py", "tests/policies/test_checkpoints.py"],
}
OUTCOMES = (KILLED, TIMED_OUT, SURVIVED)
TITLES = {name: name for name in ("module", "mutants", *OUTCOMES, "score")}
TITLES |= {"first_score": "first score", "per_minute": "mutants per minute"}
HEAD = """# Mutation testing

`python -m benchmarks.mutation`, {machine}. Share of the mutants of a module that the fast tests notice (by a failure,
or by taking three times as long), now and when it was first measured."""


@dataclass
class Settings:
    modules: list[str] = setting(list(MODULES), "files whose lines are broken", MODULES)


def main(settings: Settings) -> None:
    result = read_kept("mutation", {}) or {"asked": {}, **Machine().describe(1), "modules": {}}
    for module in settings.modules:
        figures = in_own_process("benchmarks.mutation:break_module", module, str(WORK))
        earlier = result["modules"].get(module, {})
        figures["per_minute"] = figures["per_minute"] or earlier.get("per_minute")
        figures["first_score"] = earlier.get("first_score", figures["score"])
        result["modules"][module] = figures
        keep("mutation", result, table(result))
    print(table(result))


def break_module(module: str, folder: str) -> dict[str, Any]:
    """Figures of a module: mutants by outcome, score in percent, and the survivors with their reasons.

    folder: where finished mutants are kept.
    """
    source, tests = (ROOT / module).read_text(), MODULES[module]
    mutants = make_mutants(source, str(ROOT / module))
    progress = Progress(Path(folder) / f"{module.replace('/', '.')}.json", source, tests)
    remaining = [mutant for mutant in mutants if mutant.change not in progress.outcomes]
    baseline = warm_up(module, tests) if remaining else None
    began = time.monotonic()
    for number, mutant in enumerate(remaining, 1):
        assert baseline is not None
        progress.add(mutant.change, try_mutant(mutant, module, tests, baseline))
        print(f"\r{module}: {number} of {len(remaining)} mutants", end="", file=sys.stderr, flush=True)
    outcomes = [progress.outcomes[mutant.change] for mutant in mutants]
    counts = Counter(outcomes)
    reasons = (yaml.safe_load(REASONS.read_text()) or {}).get(module, {})
    return {
        "mutants": len(mutants),
        **{outcome: counts[outcome] for outcome in OUTCOMES},
        "score": round(100 * (1 - counts[SURVIVED] / len(mutants)), 1),
        "per_minute": round(60 * len(remaining) / (time.monotonic() - began)) if remaining else None,
        "survivors": [
            {"line": mutant.line, "change": mutant.change, "reason": reasons.get(mutant.change, "")}
            for mutant, outcome in zip(mutants, outcomes, strict=True)
            if outcome == SURVIVED
        ],
    }


class Progress:
    """Outcomes of a module's finished mutants by their change, kept in a file.

    They hold for one source of the module. A survivor's hold for one source of the tests, too.
    """

    def __init__(self, file: Path, source: str, tests: Iterable[str]) -> None:
        self._file = file
        self._sources = {"module": _hash(source), "tests": _hash("".join((ROOT / test).read_text() for test in tests))}
        earlier = json.loads(file.read_text()) if file.exists() else {"sources": {}, "outcomes": {}}
        is_same = {name: earlier["sources"].get(name) == digest for name, digest in self._sources.items()}
        self.outcomes: dict[str, str] = {
            change: outcome
            for change, outcome in earlier["outcomes"].items()
            if is_same["module"] and (is_same["tests"] or outcome != SURVIVED)
        }

    def add(self, change: str, outcome: str) -> None:
        """Keep the outcome of one more mutant."""
        self.outcomes[change] = outcome
        write_whole(self._file, json.dumps({"sources": self._sources, "outcomes": self.outcomes}, indent=1))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def table(result: dict[str, Any]) -> str:
    """Markdown of all modules, then of their survivors."""
    modules = result["modules"]
    rows = [
        {"module": module, **figures, **{name: f"{figures[name]}%" for name in ("score", "first_score")}}
        for module, figures in modules.items()
    ]
    text = f"{HEAD.format(machine=result['machine'])}\n\n{markdown(rows, TITLES)}"
    for module, figures in modules.items():
        if figures["survivors"]:
            text += f"\n\n## Survivors of {module}\n"
        for survivor in figures["survivors"]:
            reason = f" ({survivor['reason']})" if survivor["reason"] else ""
            text += f"\n- line {survivor['line']}: `{survivor['change']}`{reason}"
    return text


if __name__ == "__main__":
    start(main, Settings, __doc__)
