"""Files in benchmarks/results: compact JSON with a checksum, by which a figure that is changed by hand is noticed."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tinyvla.errors import UserError
from tinyvla.files import write_whole

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
CHECKSUM = "checksum"
WIDTH = 160  # characters that an entry may have on one line


def as_json(value: Any, indent: int = 0) -> str:
    """JSON in which an item of a list takes one line, and so does whatever fits in WIDTH characters."""
    line = json.dumps(value)
    if not isinstance(value, dict | list) or len(line) + indent <= WIDTH:
        return line
    if isinstance(value, list):
        if not any(isinstance(item, dict | list) for item in value):
            return line
        entries, (left, right) = [json.dumps(item) for item in value], "[]"
    else:
        entries, (left, right) = [f"{json.dumps(key)}: {as_json(value[key], indent + 1)}" for key in value], "{}"
    space = "\n" + " " * (indent + 1)
    return f"{left}{space}{f',{space}'.join(entries)}\n{' ' * indent}{right}"


def checksum(result: Mapping[str, Any], text: str) -> str:
    """Checksum of a result, and of the tables that are written beside it."""
    content = json.dumps({key: value for key, value in result.items() if key != CHECKSUM}, sort_keys=True)
    return hashlib.sha256(f"{content}\n{text}".encode()).hexdigest()[:16]


def write_result(file: Path, result: Mapping[str, Any], text: str | None = None) -> None:
    """Write a result, and its tables as Markdown beside it, each whole or not at all."""
    content = json.loads(json.dumps(result))  # keys as they will be read
    content[CHECKSUM] = checksum(content, _read_text(file) if text is None else text)
    write_whole(file, as_json(content) + "\n")
    if text is not None:
        write_whole(file.with_suffix(".md"), text)


def read_result(name: str, folder: Path | None = None) -> dict[str, Any]:
    """Result of a name, in benchmarks/results or another folder. Raises UserError if there is no JSON object."""
    file = (folder or RESULTS) / f"{name}.json"
    try:
        result = json.loads(file.read_text())
    except FileNotFoundError:
        fix = "run the benchmark that writes it, or correct the name"
        raise UserError(f"there is no result {name}.json in benchmarks/results; {fix}") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{name}.json in benchmarks/results is not JSON ({error}); run its benchmark again") from error
    if not isinstance(result, dict):
        raise UserError(f"{name}.json in benchmarks/results is not a JSON object; run its benchmark again")
    return result


def changed_by_hand(file: Path) -> str:
    """Sentence about a result whose checksum is missing or wrong; empty for a good one."""
    result = read_result(file.stem, file.parent)
    if CHECKSUM not in result:
        return f"has no checksum; python -m benchmarks.pages seal=[{file.stem}] adds it to a result of an older version"
    if result[CHECKSUM] != checksum(result, _read_text(file)):
        return "is not as its benchmark wrote it, or the .md beside it; take both from git, or run the benchmark again"
    return ""


def _read_text(file: Path) -> str:
    """Tables beside a result; empty if it has none."""
    table = file.with_suffix(".md")
    return table.read_text() if table.exists() else ""
