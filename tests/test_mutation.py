"""Mutation testing: what is broken in a module, and that its tests decide what survives."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from benchmarks.mutants import make_mutants
from benchmarks.mutation import MODULES

ROOT = Path(__file__).parents[1]
SOURCE = '''
"""What this module is for: 1 thing."""

from math import pi

LIMIT = 0.5


@lru_cache(maxsize=1)
def bound(x: "float" = 0.0, *, low=1) -> "float":
    """Docstring."""
    if x < LIMIT and not isnan(x):
        raise ValueError("too small", 1)
    log(x, level="info", text="a sentence")
    return x + low
'''
CHANGES = {
    "LIMIT = 0.5": ["0.5 -> 1.0"],
    'def bound(x: "float" = 0.0, *, low=1) -> "float":': ["1 -> 2", "0.0 -> 1.0"],
    "if x < LIMIT and not isnan(x):": [
        "if x < LIMIT and (not isnan(x)) -> if not (x < LIMIT and (not isnan(x)))",
        "x < LIMIT and (not isnan(x)) -> x < LIMIT or not isnan(x)",
        "x < LIMIT -> x <= LIMIT",
        "not isnan(x) -> isnan(x)",
    ],
    'raise ValueError("too small", 1)': ["raise ValueError('too small', 1) -> pass"],
    'log(x, level="info", text="a sentence")': [
        "log(x, level='info', text='a sentence') -> pass",
        "log(x, level='info', text='a sentence') -> log(x, text='a sentence')",
        "log(x, level='info', text='a sentence') -> log(x, level='info')",
        "'info' -> 'infox'",
    ],
    "return x + low": ["return x + low -> return None", "x + low -> x - low"],
}


def test_conditions_numbers_arguments_and_statements_are_broken_and_wording_is_not():
    mutants = make_mutants(SOURCE, "bound.py")
    assert [mutant.change for mutant in mutants] == [
        f"{line}: {change}" for line, changes in CHANGES.items() for change in changes
    ]
    lines = SOURCE.splitlines()
    assert all(mutant.change.startswith(lines[mutant.line - 1].strip()) for mutant in mutants)
    # What runs on import is tried with all tests, the rest with those that run the statement.
    assert [list(mutant.statement) for mutant in mutants[:4]] == [[], [], [], [12]]


def test_each_mutant_has_one_change():
    source = "def add(a, b):\n    return a + b if a > 1 else 2\n"
    results = []
    for mutant in make_mutants(source, "add.py"):
        namespace = {}
        exec(mutant.code, namespace)
        results.append((mutant.change.partition(": ")[2], [namespace["add"](a, 5) for a in (1, 2, 3)]))
    assert results == [
        ("return a + b if a > 1 else 2 -> return None", [None, None, None]),
        ("a > 1 -> a >= 1", [6, 7, 8]),
        ("1 -> 2", [2, 2, 8]),
        ("a + b -> a - b", [2, -3, -2]),
        ("2 -> 3", [3, 7, 8]),
    ]


def test_every_module_and_its_tests_exist_and_every_reason_is_that_of_a_mutant():
    assert all((ROOT / file).is_file() for module, tests in MODULES.items() for file in (module, *tests))
    reasons = yaml.safe_load((ROOT / "benchmarks/survivors.yaml").read_text()) or {}
    for module, changes in reasons.items():
        assert changes.keys() <= {mutant.change for mutant in make_mutants((ROOT / module).read_text(), module)}


@pytest.mark.slow
def test_a_mutant_survives_tests_that_do_not_look_at_it(tmp_path):
    def survivors(tests):
        program = (
            "import json, sys; from benchmarks import mutation; mutation.MODULES[sys.argv[1]] = [sys.argv[2]]; "
            "print(json.dumps(mutation.break_module(sys.argv[1], sys.argv[3])))"
        )
        command = [sys.executable, "-c", program, "tinyvla/intervals.py", tests, str(tmp_path)]
        result = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
        figures = json.loads(result.stdout.splitlines()[-1])
        assert figures["killed"] + figures["survived"] == figures["mutants"] > 5
        return figures["survived"]

    assert survivors("tests/test_layout.py") > 5  # which does not call it
    assert survivors("tests/tinyvla/test_intervals.py") == 0  # tries the survivors again
