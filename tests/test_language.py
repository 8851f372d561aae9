"""Plain technical English: docstring starts, phrases and variable names that readers stumble over are refused.

The lists stand in `language.yaml`. `python tests/test_language.py` prints every place.
"""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

ROOT = Path(__file__).parents[1]
LISTS = yaml.safe_load((ROOT / "tests/language.yaml").read_text())
STARTS = re.compile(rf"({'|'.join(LISTS['docstring_starts'])})\b")
PATTERNS = {
    kind: {re.compile(pattern, re.IGNORECASE): hint for pattern, hint in LISTS[kind].items()}
    for kind in ("phrases", "retired")
}
# The lists themselves, results and files of earlier commits, and texts by other authors.
SKIPPED = re.compile(r"tests/(language\.yaml|test_language\.py|data/)|benchmarks/results/|CHANGELOG\.md")
KINDS = ("docstring_starts", *PATTERNS, "names")


class Place(NamedTuple):
    """A line that breaks a rule: its file, its number, the text that is refused and the hint."""

    file: str
    line: int
    text: str
    hint: str


def docstring_starts(file: str, source: str) -> Iterator[Place]:
    """Docstrings that do not begin with a noun or an imperative verb."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            match = STARTS.match(ast.get_docstring(node) or "")
            if match:
                yield Place(file, getattr(node, "lineno", 1), match[0], "begin with a noun or an imperative verb")


def words(kind: str, file: str, source: str) -> Iterator[Place]:
    """Phrases or retired words on the list."""
    excepted = LISTS["exceptions"].get(file, [])
    for number, line in enumerate(source.splitlines(), 1):
        for pattern, hint in PATTERNS[kind].items():
            for match in pattern.finditer(line):
                if match[0].lower() not in excepted:
                    yield Place(file, number, match[0], hint)


def names(file: str, source: str) -> Iterator[Place]:
    """Variables, parameters and attributes whose name is on the list."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()) | ast.arg(arg=name):
                if name in LISTS["names"]:
                    yield Place(file, node.lineno, name, "say what it holds")


def places() -> dict[str, list[Place]]:
    """Every place that breaks a rule, by kind."""
    refused: dict[str, list[Place]] = {kind: [] for kind in KINDS}
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for file in tracked.splitlines():
        if SKIPPED.match(file) or not file.endswith((".py", ".md", ".yaml")) or not (ROOT / file).exists():
            continue
        source = (ROOT / file).read_text()
        for kind in PATTERNS:
            refused[kind] += words(kind, file, source)
        if file.endswith(".py"):
            refused["docstring_starts"] += docstring_starts(file, source)
            refused["names"] += names(file, source)
    return refused


def describe(refused: list[Place]) -> str:
    """One line per place."""
    return "\n".join(f"{place.file}:{place.line}: '{place.text}' ({place.hint})" for place in refused)


@pytest.fixture(scope="module")
def refused() -> dict[str, list[Place]]:
    if not (ROOT / ".git").exists():
        pytest.skip("the check reads the list of tracked files from git")
    return places()


@pytest.mark.parametrize("kind", KINDS)
def test_language(refused, kind):
    assert not refused[kind], f"\n{describe(refused[kind])}"


def test_the_check_finds_each_kind():
    source = 'def f(told):\n    """What it does."""\n    seen = 3  # nobody is told\n'
    assert [place.text for place in docstring_starts("a.py", source)] == ["What"]
    assert [place.text for place in names("a.py", source)] == ["told", "seen"]
    assert sorted(place.text for place in words("phrases", "a.py", source)) == ["is told", "nobody"]
    assert [place.text for place in words("retired", "a.py", "my_pictures = depicture")] == ["pictures"]


if __name__ == "__main__":
    for kind, listed in places().items():
        print(f"{kind}: {len(listed)}\n{describe(listed)}")
