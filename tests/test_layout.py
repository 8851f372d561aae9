"""The layout: imports run one way, entry points and files stay small."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ENTRY_POINTS = [
    "train.py",
    "perceive.py",
    "collect.py",
    "evaluate.py",
    "export.py",
    "simulate_arm.py",
    "robot_setup.py",
    "deploy.py",
]
# What each package may import of ours, itself aside. Entry points may import everything, and nothing imports them.
MAY_IMPORT = {
    "tinyvla": set(),
    "configs": {"tinyvla"},
    "policies": {"tinyvla"},
    "envs": {"tinyvla", "policies"},
    "robot_io": {"tinyvla", "policies"},
}
OURS = {*MAY_IMPORT, *(name.removesuffix(".py") for name in ENTRY_POINTS), "tests", "benchmarks"}
FILES = {package: sorted((ROOT / package).rglob("*.py")) for package in MAY_IMPORT}


def imported(source: str) -> set[str]:
    """Top-level names that a module imports absolutely, wherever in it the import stands."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.partition(".")[0])
    return found


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_run_one_way(package):
    allowed = MAY_IMPORT[package] | {package}
    wrong = {str(file.relative_to(ROOT)): bad for file in FILES[package] if (bad := _strangers(file, allowed))}
    assert FILES[package]
    assert wrong == {}


def _strangers(file: Path, allowed: set[str]) -> set[str]:
    return (imported(file.read_text()) & OURS) - allowed


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_relative_imports_stay_inside_their_package(package):
    for file in FILES[package]:
        depth = len(file.relative_to(ROOT).parts) - 1
        levels = [node.level for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.ImportFrom)]
        assert max(levels, default=0) <= depth, file


def test_the_rule_sees_imports_inside_functions():
    assert imported("def f():\n    from envs.rollout import x\n    import policies.factory") == {"envs", "policies"}


@pytest.mark.parametrize("entry", ENTRY_POINTS)
def test_entry_points_stay_small(entry):
    assert len((ROOT / entry).read_text().splitlines()) <= 60


def test_files_stay_readable():
    lengths = {str(file): len(file.read_text().splitlines()) for files in FILES.values() for file in files}
    assert {name: length for name, length in lengths.items() if length > 400} == {}
