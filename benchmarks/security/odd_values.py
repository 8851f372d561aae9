"""Odd values of settings over all entry points: each must end with one line and exit code 2, and leave nothing.

    python -m benchmarks.security.odd_values                 # all
    python -m benchmarks.security.odd_values only=export.py  # some; the results of the others are kept

Every row is a command in a process (forked after the imports) and a folder of its own, beside a small dataset, a run
and a checkpoint that it could damage. A row holds if the command exits with 2, prints one line that begins with
"error:" on stderr, and the folder is the same afterwards, file by file. Commands that do not end count as failures. A
row that begins with <name of a damage> is tried in a folder with one of `damages.DAMAGES`; where that is a broken
cache, the row holds if the command ends well and the cache is whole again.
"""

import hashlib
import os
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from benchmarks.machine import ROOT, Machine, keep, markdown, read_kept
from benchmarks.settings import setting, start

from .damages import DAMAGES, Damage

COMMANDS = Path(__file__).with_name("odd_values.txt")
TINY = [
    *("policy=tinyvla", "env=metaworld", "env.tasks=[reach-v3]", "env.image_size=32", "env.max_steps=60", "seed=0"),
    *("episodes=1", "trainer.steps=4", "trainer.batch_size=4", "trainer.validate_every=0", "eval.episodes=1"),
    *("backbone.image_size=32", "backbone.vision_width=16", "backbone.keypoints=8", "backbone.hidden_size=32"),
    *("decoder.network.widths=[16,32]", "eval.videos=0", "eval.wrong_instructions=0"),
    *("eval.workers=1", "workers=1", "run_dir=outputs/run", "logger=none"),
]
STORED = {
    "empty": b"",
    "garbage": b"\x00\xff\x13garbage\x80",
    "list": b"- 1\n- 2\n",
    "text": b"just a word\n",
    "unknown_interpolation": b"seed: ${nothing.here}\n",
    "resolver": b"seed: ${oc.env:HOME}\n",
    "tag": b"!!python/object/apply:os.system ['touch canary']\n",
    "target": b"_target_: os.system\ncommand: touch canary\n",
    "cut": None,  # half of the run's own file
}


_TEXT = """# Odd values and damaged files over all entry points

`python -m benchmarks.security.odd_values`, {machine}. {held} of {n} hold: the command ends with one line and exit code
2, and leaves every file as it was. `$TINY` stands for the settings of the smallest run. `<...>` names a damage of
`benchmarks/security/damages.py` that is done to the prepared files before the command; a damaged cache is made anew,
and the command ends with exit code 0. Rows that did not hold were tried again after their fix (`missing=true`).
"""


@dataclass
class Settings:
    """Settings of the benchmark."""

    only: str = setting("", "text that a command must contain; all commands by default")
    missing: bool = setting(False, "skip the commands that an earlier call has found to hold")
    prepared: Path | None = setting(None, "folder with the tiny run of an earlier call; made if it is missing")
    seconds: float = setting(120, "seconds after which a command counts as endless")


def prepare(folder: Path) -> None:
    """Train a tiny policy in `folder`, and put a run with each of STORED as its config.yaml beside it."""
    subprocess.run([sys.executable, ROOT / "train.py", *TINY], cwd=folder, check=True, capture_output=True)
    run = folder / "outputs" / "run"
    config = (run / "config.yaml").read_bytes()
    for name, content in STORED.items():
        copy = folder / "outputs" / name
        shutil.copytree(run, copy, symlinks=True)
        (copy / "config.yaml").write_bytes(config[: len(config) // 2] if content is None else content)
    (folder / "a_file").write_text("no folder")
    dataset = next(path for path in (folder / "data").iterdir() if (path / "meta").is_dir())
    (folder / "dataset").symlink_to(dataset.relative_to(folder))


def tree(folder: Path) -> dict[str, str]:
    """Hash of every file, target of every link and name of every folder below `folder`."""
    content = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            content[name] = f"-> {path.readlink()}"
        else:
            content[name] = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
    return content


def preload() -> None:
    """Import what the entry points import, so that each command costs a fork instead of half a minute of imports."""
    import torch

    import tinyvla_scripts.vision_task  # noqa: F401

    torch.set_num_threads(1)


def in_fork(action: Callable[[], object], folder: Path, errors: Path, seconds: float) -> str:
    """Exit code of a process forked from this one, in a folder of its own; "no end" if it is killed after `seconds`.

    errors: file of what it writes on stderr.
    """
    process = os.fork()
    if process == 0:
        code = 1
        try:
            os.setsid()
            os.chdir(folder)
            os.dup2(os.open(os.devnull, os.O_RDWR), 0)
            os.dup2(os.open(os.devnull, os.O_RDWR), 1)
            os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT, 0o600), 2)
            action()
            code = 0
        except SystemExit as leaving:
            code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            return str(os.waitstatus_to_exitcode(status))
        time.sleep(0.05)
    os.killpg(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return "no end"


def run_forked(script: str, arguments: Sequence[str], folder: Path, errors: Path, seconds: float) -> str:
    """Exit code of an entry point in a process forked from this one, as `in_fork`."""

    def run() -> None:
        sys.argv = [str(ROOT / script), *arguments]
        sys.path[0] = str(ROOT)
        runpy.run_path(sys.argv[0], run_name="__main__")

    return in_fork(run, folder, errors, seconds)


def try_command(row: str, prepared: Path, seconds: float) -> dict[str, Any]:
    """Outcome of the command of one row in a copy of the prepared folder."""
    name, _, command = row.removeprefix("<").partition("> ") if row.startswith("<") else ("", "", row)
    damage = DAMAGES[name] if name else Damage(lambda _: nullcontext())
    with tempfile.TemporaryDirectory() as scratch:
        folder, errors = Path(scratch) / "work", Path(scratch) / "errors"
        shutil.copytree(prepared, folder, symlinks=True)
        whole = tree(folder)
        with damage.apply(folder):
            before, began = tree(folder), time.monotonic()
            script, *arguments = shlex.split(command.replace("\\n", "\n").replace("$TINY", shlex.join(TINY)))
            code = run_forked(script, arguments, folder, errors, seconds)
            took, after, err = time.monotonic() - began, tree(folder), errors.read_text(errors="replace")
    lines = [line for line in err.splitlines() if line.strip()]
    if damage.restored is None:
        changed = sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))
        holds = code == "2" and len(lines) == 1 and lines[0].startswith("error: ") and not changed
    else:
        names = [path for path in whole if fnmatch(path, damage.restored)]
        changed = [path for path in names if whole[path] != after.get(path)]
        holds = code == "0" and bool(names) and not changed and before != whole
    shown = lines[-1] if lines and damage.restored is None else ""
    message = shown.replace(str(folder), ".").replace(str(Path.home()), "~")
    return {
        "command": row,
        "holds": holds,
        "exit_code": code,
        "message": message[:300],
        "lines": len(lines),
        "changed": changed[:5],
        "seconds": round(took, 1),
    }


def main(settings: Settings) -> None:
    commands = [line for line in COMMANDS.read_text().splitlines() if line and not line.startswith("#")]
    results = {command: row for command, row in _earlier_results().items() if command in commands}
    with tempfile.TemporaryDirectory() as name:
        prepared = settings.prepared or Path(name)
        if not (prepared / "dataset").exists():
            prepared.mkdir(parents=True, exist_ok=True)
            prepare(prepared)
        preload()
        for command in commands:
            if settings.only not in command or (settings.missing and results.get(command, {}).get("holds")):
                continue
            row = try_command(command, prepared, settings.seconds)
            print(
                f"{'ok  ' if row['holds'] else 'FAIL'} {command}\n     {row['exit_code']}: {row['message']}", flush=True
            )
            if not row["holds"]:
                print(f"     {row['lines']} lines; changed: {row['changed']}", flush=True)
            results[command] = row
            _keep([results[tried] for tried in commands if tried in results])
    print(f"{sum(row['holds'] for row in results.values())} of {len(results)} hold")


def _earlier_results() -> dict[str, dict[str, Any]]:
    rows = read_kept("odd_values", {"machine": Machine().summary}).get("rows", {})
    return {command: row if isinstance(row, dict) else _held(command, row) for command, row in rows.items()}


def _held(command: str, message: str) -> dict[str, Any]:
    return {"command": command, "holds": True, "message": message}


def _keep(rows: list[dict[str, Any]]) -> None:
    """Write the results: of a row that holds, its message alone."""
    machine, held = Machine(), sum(row["holds"] for row in rows)
    table = [
        {
            "command": _cell(f"`{row['command']}`"),
            "message": _cell(row["message"].removeprefix("error: ")) or "exit 0, made anew",
            "holds": "yes" if row["holds"] else "no",
        }
        for row in rows
    ]
    result = {
        "asked": {"machine": machine.summary},
        "versions": machine.versions,
        "commands": len(rows),
        "hold": held,
        "rows": {row["command"]: row["message"] if row["holds"] else row for row in rows},
    }
    text = _TEXT.format(held=held, n=len(rows), machine=machine.summary)
    keep("odd_values", result, f"{text}\n{markdown(table, {name: name for name in table[0]})}")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    start(main, Settings, __doc__)
