"""Commands hidden in strangers' files: each must stay unrun, and the file be refused with one line and exit code 2.

    python -m benchmarks.security.canary

For every door (benchmarks/security/doors_of_*.py), a trap is put into one file of a folder with good runs, datasets and
models; then a command of a user opens it, in a process forked after the imports. The trap is a command that leaves a
file, or a folder whose files must not be opened. First the same file is opened carelessly in a scratch process: a trap
that does not go off there shows nothing, and its door is listed but not counted.
"""

import functools
import json
import os
import shlex
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.machine import RESULTS, Machine, keep, markdown
from benchmarks.settings import setting, start
from tinyvla.errors import UserError, one_line
from tinyvla.files import write_whole

from .all_doors import all_doors
from .doors import SIZES, TRAIN, Door
from .odd_values import TINY, in_fork, preload, run_forked
from .traps import Trap


@dataclass
class Settings:
    """Settings of the benchmark."""

    only: str = setting("", "text in the names of the doors that are tried; the results of the others stay")
    work: str = setting("", "folder that is kept: a second call goes on with the doors that are left")
    seconds: float = setting(240, "seconds after which a command is killed")


def prepare(folder: Path) -> None:
    """Fill a folder with a run, its dataset, policies with models inside, front-ends and an exported policy."""
    errors = folder / "errors"
    train_tiny(folder, errors, TINY)
    data = next(path for path in (folder / "data").iterdir() if (path / "meta").is_dir())
    shutil.copytree(data, folder / "dataset")
    smolvla = f"{TRAIN} preset=cpu policy=smolvla trainer.steps=1 run_dir=outputs/smolvla"
    if (code := in_fork(lambda: make_models(folder), folder, errors, 600)) != "0":
        raise RuntimeError(f"{code}: {errors.read_text()}")
    with_wake = f"{TRAIN} {SIZES} frontend=wake frontend.wake.checkpoint=frontends/wake run_dir=outputs/with_wake"
    for command in (smolvla, with_wake):
        train_tiny(folder, errors, shlex.split(command)[1:])
    errors.unlink()


def train_tiny(folder: Path, errors: Path, arguments: list[str]) -> None:
    """Run train.py in a folder. Raises RuntimeError with its output if it fails."""
    if (code := run_forked("train.py", arguments, folder, errors, 600)) != "0":
        raise RuntimeError(f"train.py ends with {code}: {errors.read_text()[-2000:]}")


def make_models(folder: Path) -> None:
    """Untrained front-ends, a classifier, a pretrained model, an exported policy and an image."""
    from PIL import Image
    from transformers import AutoProcessor, SmolVLMConfig, SmolVLMForConditionalGeneration

    from policies.export import export_policy
    from policies.offline_models import offline_model
    from tinyvla.frontends.classifier import Classifier
    from tinyvla.frontends.tinyclip.frontend import TinyCLIP
    from tinyvla.frontends.tinysam.everything import EverythingSettings
    from tinyvla.frontends.tinysam.frontend import TinySAM
    from tinyvla.frontends.tinysam.model import SIZES, Segmenter
    from tinyvla.frontends.wake.frontend import Wake

    frontends = folder / "frontends"
    Wake(width=0.25, image_size=48).save(frontends / "wake")
    everything = EverythingSettings(4, min_score=0, min_stability=0)
    TinySAM.of(Segmenter(SIZES["small"]), everything).save(frontends / "tinysam")
    tower = {"layers": 1, "width": 32, "heads": 2, "units": 32}
    TinyCLIP.new(["a red mug", "a blue mug"], tower, tower, vocab_size=600).save(frontends / "tinyclip")
    (frontends / "tinyclip/detector.json").write_text("{}")
    (frontends / "sam").mkdir()
    Classifier("cct_2_3x2", [str(digit) for digit in range(10)], 16).save(frontends / "classifier")
    offline = offline_model("offline/smolvlm")
    model: Any = SmolVLMForConditionalGeneration(SmolVLMConfig.from_pretrained(offline))
    model.save_pretrained(folder / "pretrained/smolvlm")
    AutoProcessor.from_pretrained(offline).save_pretrained(folder / "pretrained/smolvlm")
    (folder / "evil").mkdir()
    export_policy(folder / "outputs/run", folder / "exported")
    Image.new("RGB", (64, 64), "red").save(folder / "image.png")


def api(name: str, path: str) -> None:
    """Open a file in Python. A UserError ends the process as an entry point does."""
    import sys

    try:
        API[name](Path(path))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from error


def _load_policy(path: Path) -> object:
    from policies import load_policy

    return load_policy(path, "cpu")


def _classifier(path: Path) -> object:
    from tinyvla.frontends.classifier import Classifier

    return Classifier.load(path)


def _detector(path: Path) -> object:
    from tinyvla.frontends.tinyclip.success_detector import SuccessDetector

    return SuccessDetector.load(path)


def _logits(path: Path) -> object:
    from tinyvla.frontends.tinyvit.logit_store import LogitStore

    return LogitStore(path)


def _exported(path: Path) -> object:
    from tinyvla.inference.exported import ExportedPolicy

    return ExportedPolicy(path)


def _demo(path: Path) -> object:
    from envs.demos.episode import read_demo

    try:
        return read_demo(path)
    except ValueError as error:  # its caller deletes the file and collects again
        raise UserError(one_line(error)) from error


def _report(path: Path) -> object:
    from envs.report import write_report

    return write_report(path)


def _server(path: Path) -> object:
    """Answer the bytes of a message, as the policy server does for the method in the file's name."""
    from policies.remote.policy_store import PolicyStore
    from policies.remote.server import PolicyService
    from policies.remote.sessions import Sessions

    service = PolicyService(Sessions(PolicyStore(Path("outputs"), "cpu", 1), 1, 60))
    return getattr(service, path.suffix.strip("."))(path.read_bytes(), 1.0)


API: dict[str, Callable[[Path], object]] = {
    "load_policy": _load_policy,
    "classifier": _classifier,
    "detector": _detector,
    "logits": _logits,
    "exported": _exported,
    "demo": _demo,
    "report": _report,
    "server": _server,
}


def try_door(door: Door, prepared: Path, seconds: float) -> dict[str, Any]:
    """Outcome of a door: its trap set off carelessly, then the user's command."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        is_shown = door.careless is not None and _sets_off(door, prepared, place / "careless")
        trap, work = _plant(door, prepared, place / "careful")
        began = time.monotonic()
        script, *arguments = shlex.split(door.command)
        if script == "api":
            code = in_fork(functools.partial(api, *arguments), work, place / "errors", seconds)
        else:
            code = run_forked(script, arguments, work, place / "errors", seconds)
        took, has_run = time.monotonic() - began, trap.has_run()
        err = (place / "errors").read_text(errors="replace").replace(str(work), ".").replace(str(trap.bait), "BAIT")
    lines = [line for line in err.splitlines() if line.strip()]
    is_line = len(lines) == 1 and lines[0].startswith("error: ")
    is_clean = (code == "2" and is_line) or (code == "0" and not door.opened)
    return {
        "door": door.name,
        "command": door.command,
        "set_off_carelessly": is_shown,
        "ran": has_run,
        "holds": not has_run and is_clean,
        "exit_code": code,
        "message": lines[-1][:400] if lines and code != "0" else "",
        "lines": len(lines) if code != "0" else 0,
        "seconds": round(took, 1),
    }


def _plant(door: Door, prepared: Path, place: Path) -> tuple[Trap, Path]:
    place.mkdir()
    trap, work = Trap(place), place / "work"
    shutil.copytree(prepared, work, symlinks=True)
    door.plant(work, trap)
    trap.watch()
    return trap, work


def _sets_off(door: Door, prepared: Path, place: Path) -> bool:
    """True if a careless program sets the trap off."""
    trap, work = _plant(door, prepared, place)
    assert door.careless is not None
    in_fork(functools.partial(door.careless, work, trap), work, place / "errors", 120)
    return trap.has_run()


def main(settings: Settings) -> None:
    doors = [door for door in all_doors() if settings.only in door.name]
    with tempfile.TemporaryDirectory() as scratch:
        # What transformers copies remote code to, and no waiting for the hub.
        os.environ |= {"HF_MODULES_CACHE": f"{scratch}/modules", "HF_HUB_OFFLINE": "1"}
        place = Path(settings.work or scratch).absolute()
        preload()
        if not (place / "prepared").exists():
            shutil.rmtree(place / "filling", ignore_errors=True)  # of a call that was killed
            (place / "filling").mkdir(parents=True)
            prepare(place / "filling")
            (place / "filling").rename(place / "prepared")
        rows = []
        for door in doors:
            rows.append(row := _once(door, place, settings.seconds))
            print(f"{'ok  ' if row['holds'] else 'FAIL'} {row['door']}\n     {row['exit_code']}: {row['message']}")
            if not row["holds"]:
                print(f"     ran: {row['ran']}; {row['lines']} lines")
            if not row["set_off_carelessly"]:
                print("     the trap was not set off carelessly", flush=True)
    results = {row["door"]: row for row in [*_committed(), *rows]}
    summarise([results[door.name] for door in all_doors() if door.name in results])


def _committed() -> list[dict[str, Any]]:
    """Results of earlier calls."""
    file = RESULTS / "canary.json"
    return json.loads(file.read_text())["rows"] if file.exists() else []


def _once(door: Door, place: Path, seconds: float) -> dict[str, Any]:
    """Outcome of a door, from its file if an earlier call in the same folder has tried it."""
    name = "".join(letter if letter.isalnum() else "-" for letter in f"{door.name} {door.command}")[:200]
    file = place / "rows" / f"{name}.json"
    if not file.exists():
        write_whole(file, json.dumps(try_door(door, place / "prepared", seconds)))
    return json.loads(file.read_text())


def summarise(rows: list[dict[str, Any]]) -> None:
    """Print the counts and write the files of results."""
    counted = [row for row in rows if row["set_off_carelessly"]]
    ran, held = sum(row["ran"] for row in rows), sum(row["holds"] for row in rows)
    note = (
        f"{len(counted)} doors whose trap goes off in a careless program ({len(rows)} tried): {ran} canaries ran; "
        f"{held} of {len(rows)} end with one line and exit code 2, or leave the file alone"
    )
    print(note)
    machine = Machine()
    result = {
        "machine": machine.summary,
        "versions": machine.versions,
        "command": "python -m benchmarks.security.canary work=<folder>",
        "doors": len(counted),
        "tried": len(rows),
        "ran": ran,
        "hold": held,
        "rows": rows,
    }
    table = [
        row
        | {
            "message": row["message"].removeprefix("error: ").replace("|", "/") or "left alone",
            "shown": "yes" if row["set_off_carelessly"] else "not shown",
            "ran": "yes" if row["ran"] else "no",
            "ends": "yes" if row["holds"] else "NO",
        }
        for row in rows
    ]
    titles = {"door": "door", "shown": "goes off carelessly", "ran": "ran", "ends": "clean end", "message": "message"}
    calls = f"`{result['command']}`, {machine.summary}, in one or more calls with the same folder"
    text = f"# Canaries in strangers' files\n\n{calls}. {note}.\n\n"
    keep("canary", result, text + markdown(table, titles))


if __name__ == "__main__":
    start(main, Settings, __doc__)
