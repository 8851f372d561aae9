"""Mutated files of every kind that a command reads: each case must end well, or with one line and exit code 2.

    python -m benchmarks.security.fuzz_files kinds=[checkpoints,datasets] cases=400 seed=0
    python -m benchmarks.security.fuzz_files kinds=[datasets] only=[17]              # one case again

A case is a copy of a good folder with one mutation, and the command that reads it, in a process forked after the
imports. It holds if the mutation does no harm ("works"), or is refused with one line on stderr and exit code 2, and all
files are as before. Everything else is a fault: a traceback, more lines, no end in time, much memory, a program that is
started, a file outside that is read or changed. Writes benchmarks/results/fuzz_files.{json,md}.
"""

import hashlib
import os
import random
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.machine import Machine, keep, markdown, read_kept
from benchmarks.settings import setting, start

from .isolation import Ending, Place, import_as, run_isolated
from .mutations import MUTATIONS, applicable, list_scene

if TYPE_CHECKING:
    from .good_files import Original

NAMES = ("checkpoints", "front-ends", "datasets", "runs", "caches", "exports")
OUTCOMES = ("works", "refused", "fault")
SECONDS, ADDRESS_MB, MEMORY_MB = 60, 4096, 1024
_LINKED_BYTES = 1 << 20  # larger files are hard links of the good ones
_PROGRESS = re.compile(r"\d+%\||\d(it|step|frame|episode|shard|block|image)?s?/s|\ds/")  # bars
_LOCKS = (".lock", ".run.lock")
_TEXT = """# Mutated files

`python -m benchmarks.security.fuzz_files cases={cases} seed={seed}`, {machine}. A mutation "works" if the command ends
as with good files, and is "refused" with one line and exit code 2, all files as before. A fault is anything else:
a traceback, another line, no end within {seconds} s, more than {memory} MB above the good command, a program started,
a file outside of the case's folder read or changed. A case that was a fault is tried again once its cause is fixed.

{kinds}

{mutations}
"""


@dataclass
class Settings:
    """Settings of the benchmark."""

    kinds: list[str] = setting(list(NAMES), "kinds of files", NAMES)
    cases: int = setting(400, "per kind")
    seed: int = setting(0, "of the mutations")
    seconds: float = setting(0, "after which a kind stops; the next call goes on with it; 0: no limit")
    only: list[int] = setting([], "numbers of cases; nothing is written then")


@dataclass(frozen=True)
class Good:
    """An original in its folder, and the peak memory of its command on good files."""

    original: "Original"
    folder: Path
    memory_mb: float


def quiet_libraries() -> None:
    """Keep the caches of libraries in a temporary folder, their progress bars off, and the network unused."""
    cache = tempfile.mkdtemp(prefix="fuzz-cache-")
    os.environ |= {"HF_HOME": cache, "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1", "WANDB_MODE": "offline"}
    os.environ |= {"OMP_NUM_THREADS": "1", "FUZZ_CACHE": cache, "TORCHINDUCTOR_CACHE_DIR": cache}
    os.environ["DATASETS_VERBOSITY"] = "critical"  # as entry points set it


def content(folder: Path) -> dict[str, str]:
    """Hash of every file, target of every link and kind of everything else below a folder, locks left out."""
    entries = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            entries[name] = f"-> {path.readlink()}"
        elif path.is_file():
            size = path.stat().st_size
            entries[name] = f"{size} {'' if size > 100 << 20 else hashlib.sha256(path.read_bytes()).hexdigest()}"
        else:
            entries[name] = "folder" if path.is_dir() else "other"
    return {name: entry for name, entry in entries.items() if Path(name).name not in _LOCKS}


@contextmanager
def new_place() -> Iterator[Place]:
    base = Path(tempfile.mkdtemp(prefix="fuzz-"))
    place = Place(base)
    place.outside.mkdir()
    (place.outside / "bystander").write_text("as it was")
    try:
        yield place
    finally:
        shutil.rmtree(base, ignore_errors=True)


def isolate(work: Callable[[], None], place: Place, seconds: float = SECONDS) -> Ending:
    return run_isolated(work, place, seconds, ADDRESS_MB, [Path(os.environ["FUZZ_CACHE"])])


def make_goods(originals: Iterable["Original"], base: Path) -> list[Good]:
    """Write the originals, each once, and run their commands on them."""
    folders: dict[Any, Path] = {}
    goods = []
    for original in originals:
        if original.write not in folders:
            folders[original.write] = base / original.name
            with new_place() as place:
                place.work.mkdir()
                written = isolate(original.write, place, 4 * SECONDS)
                if written.code != 0:
                    raise RuntimeError(f"{original.name} cannot be written: {written.errors[-2000:]}")
                shutil.copytree(place.work, folders[original.write], symlinks=True)
        with new_place() as place:
            shutil.copytree(folder := folders[original.write], place.work, symlinks=True)
            ending = isolate(original.read, place)
            import_as(place)
        print(f"{original.name}: {ending.seconds} s, {ending.memory_mb:.0f} MB", file=sys.stderr, flush=True)
        if outcome(ending, [], 0) != ("works", ""):
            raise RuntimeError(f"{original.name} does not work: {ending}")
        goods.append(Good(original, folder, ending.memory_mb))
    return goods


def outcome(ending: Ending, changed: list[str], memory_mb: float) -> tuple[str, str]:
    """Outcome of a case, and the fault. changed: files that a refusal may not change. memory_mb: of good files."""
    lines = [line for line in ending.errors.splitlines() if line.strip() and not _PROGRESS.search(line)]
    last = lines[-1] if lines else ""
    if ending.code is None:
        return "fault", f"no end after {SECONDS} s"
    if ending.events:
        return "fault", ending.events[0]
    if memory_mb and ending.memory_mb > memory_mb + MEMORY_MB:
        return "fault", f"{ending.memory_mb:.0f} MB of memory instead of {memory_mb:.0f}; {last}"
    if ending.code == 0:
        return "works", ""
    if ending.code != 2 or not last.startswith("error: "):
        return "fault", f"exit code {ending.code}: {last}"
    if len(lines) > 1:
        return "fault", f"{len(lines)} lines: {lines[0]}"
    return ("fault", f"changed {changed[0]}; {last}") if changed else ("refused", last)


def _copy(source: str, target: str) -> None:
    if os.path.getsize(source) > _LINKED_BYTES:
        os.link(source, target)
    else:
        shutil.copy2(source, target)


def run_case(good: Good, name: str, rng: random.Random) -> dict[str, Any] | None:
    """Outcome of one mutation, None if the files do not allow it."""
    with new_place() as place:
        shutil.copytree(good.folder, place.work, symlinks=True, copy_function=_copy)
        scene = list_scene(place.work, good.original.targets, place.outside)
        if (where := MUTATIONS[name](scene, rng)) is None:
            return None
        before, outside = content(place.work), content(place.outside)
        ending = isolate(good.original.read, place)
        after = content(place.work)
        changed = sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))
        verdict, fault = outcome(ending, changed, good.memory_mb)
        if content(place.outside) != outside or {path.name for path in place.base.iterdir()} - _PARTS:
            verdict, fault = "fault", f"something outside has changed; {fault}"
        text = fault.replace(str(place.base), "")
    return {
        "original": good.original.name,
        "mutation": name,
        "where": where,
        "outcome": verdict,
        "text": text[:300],
    } | {
        "seconds": ending.seconds,
        "errors": ending.errors,
    }


_PARTS = {"work", "outside", "temporary", "errors", "events"}


def cases_of(
    goods: list[Good], kind: str, numbers: Iterable[int], seed: int
) -> Iterator[tuple[int, Good, str, random.Random]]:
    """Number, original, mutation and random draws of every case; each case by itself is always the same."""
    names = {
        good.original.name: applicable(list_scene(good.folder, good.original.targets, good.folder)) for good in goods
    }
    for number in numbers:
        good = goods[number % len(goods)]
        mutations = names[good.original.name]
        name = mutations[number // len(goods) % len(mutations)]
        yield number, good, name, random.Random(f"{seed}-{kind}-{number}")


class Tally:
    """Counts of outcomes of one kind, by mutation, and its faults.

    `earlier` is the result of an earlier call, which this one goes on from: its faults are tried again.
    """

    def __init__(self, earlier: Mapping[str, Any]):
        self.mutations = {name: list(earlier.get("mutations", {}).get(name, [0, 0, 0])) for name in MUTATIONS}
        self.slowest_s, self.next = earlier.get("slowest_s", 0.0), earlier.get("next", 0)
        self.faults: list[dict[str, Any]] = []
        self.again = [fault["case"] for fault in earlier.get("faults", [])]
        for fault in earlier.get("faults", []):
            self.mutations[fault["mutation"]][OUTCOMES.index("fault")] -= 1

    def add(self, number: int, case: dict[str, Any] | None) -> None:
        """Count a case; None: the files did not allow it."""
        self.next = max(self.next, number + 1)
        if case is None:
            return
        self.mutations[case["mutation"]][OUTCOMES.index(case["outcome"])] += 1
        self.slowest_s = max(self.slowest_s, case["seconds"])
        if case["outcome"] == "fault":
            self.faults.append({"case": number, **case})

    def result(self) -> dict[str, Any]:
        totals = {outcome: sum(row[i] for row in self.mutations.values()) for i, outcome in enumerate(OUTCOMES)}
        rest = {"mutations": self.mutations, "faults": self.faults, "next": self.next}
        return {**totals, "slowest_s": self.slowest_s, **rest}


def fuzz(kind: str, settings: Settings, earlier: Mapping[str, Any]) -> dict[str, Any]:
    """Counts of outcomes of a kind; `earlier` is the result of an earlier call, which this one goes on from."""
    from .good_models import KINDS

    tally, began = Tally(earlier), time.monotonic()
    with tempfile.TemporaryDirectory() as base:
        goods = make_goods(KINDS[kind](), Path(base))
        print(f"{kind}: {len(goods)} good folders after {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
        before = content(Path(base))
        numbers = settings.only or [*tally.again, *range(tally.next, settings.cases)]
        for number, good, name, rng in cases_of(goods, kind, numbers, settings.seed):
            case = run_case(good, name, rng)
            errors = case.pop("errors") if case else ""
            tally.add(number, case)
            if case and (settings.only or case["outcome"] == "fault"):
                print(number, *case.values(), errors if settings.only else "", sep=" | ", flush=True)
            if 0 < settings.seconds < time.monotonic() - began and number not in tally.again:
                break
        if content(Path(base)) != before:
            raise RuntimeError("a case has changed the good files")
    return tally.result()


def report(results: Mapping[str, Any], settings: Settings) -> str:
    rows = [
        {"kind": kind, "cases": sum(r[o] for o in OUTCOMES)} | {o: r[o] for o in OUTCOMES}
        for kind, r in results.items()
    ]
    total = {key: sum(row[key] for row in rows) for key in ("cases", *OUTCOMES)}
    table = markdown([*rows, {"kind": "all", **total}], {key: key for key in ("kind", "cases", *OUTCOMES)})
    mutations = [
        {"mutation": name}
        | {kind: "/".join(map(str, r["mutations"].get(name, [0, 0, 0]))) for kind, r in results.items()}
        for name in MUTATIONS
    ]
    titles = {"mutation": "mutation: works/refused/fault", **{kind: kind for kind in results}}
    return _TEXT.format(
        cases=settings.cases,
        seed=settings.seed,
        machine=Machine().summary,
        seconds=SECONDS,
        memory=MEMORY_MB,
        kinds=table,
        mutations=markdown(mutations, titles),
    )


def main(settings: Settings) -> None:
    quiet_libraries()
    machine = Machine()
    conditions = {
        "machine": machine.summary,
        "versions": machine.versions,
        "cases": settings.cases,
        "seed": settings.seed,
    }
    try:
        for kind in settings.kinds:
            earlier = {} if settings.only else read_kept("fuzz_files", conditions).get("results", {}).get(kind, {})
            if earlier.get("next", 0) >= settings.cases and not earlier["faults"]:
                earlier = {}
            try:
                result = fuzz(kind, settings, earlier)
            except RuntimeError as error:
                print(f"{kind}: {error}", file=sys.stderr, flush=True)
                continue
            print(kind, {key: result[key] for key in (*OUTCOMES, "slowest_s")}, flush=True)
            if settings.only:
                continue
            results = read_kept("fuzz_files", conditions).get("results", {}) | {kind: result}
            results = {name: results[name] for name in NAMES if name in results}
            keep("fuzz_files", {"asked": conditions, "results": results}, report(results, settings))
    finally:
        shutil.rmtree(os.environ["FUZZ_CACHE"], ignore_errors=True)


if __name__ == "__main__":
    start(main, Settings, __doc__)
