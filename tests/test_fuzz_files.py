"""The fuzzer of files: what it counts as a fault, and its mutations of every kind of file."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from safetensors.torch import save_file

from benchmarks.security import fuzz_files
from benchmarks.security.fuzz_files import Good, new_place, outcome, run_case
from benchmarks.security.isolation import run_isolated
from benchmarks.security.mutations import MUTATIONS, applicable, list_scene
from tinyvla.errors import UserError
from tinyvla.untrusted import check_links, check_regular, read_json


def isolate(work, seconds=20.0, memory_mb=4096.0):
    with new_place() as place:
        place.work.mkdir()
        return run_isolated(lambda: work(place), place, seconds, memory_mb)


def test_a_good_end_is_counted_as_such():
    def refuse(_):
        print("error: a fault; the fix", file=sys.stderr)
        sys.exit(2)

    assert outcome(isolate(lambda place: (place.work / "file").write_text("result")), [], 0) == ("works", "")
    ending = isolate(refuse)
    assert outcome(ending, [], 0) == ("refused", "error: a fault; the fix")
    assert outcome(ending, ["run/config.yaml"], 0)[1].startswith("changed run/config.yaml")


@pytest.mark.parametrize(
    ("work", "fault"),
    [
        (lambda place: 1 / 0, "exit code 1: ZeroDivisionError"),
        (lambda place: os.kill(os.getpid(), signal.SIGKILL), "exit code -9"),
        (lambda place: subprocess.run(["true"]), "subprocess.Popen"),
        (lambda place: (place.base / "file").write_text(""), "write "),
        (lambda place: (place.outside / "bystander").read_text(), "read "),
        (lambda place: (place.outside / "bystander").unlink(), "os.remove "),
        (lambda place: np.zeros(1 << 40, np.uint8), "exit code 1: numpy"),
        (lambda place: print("error: a\nerror: b", file=sys.stderr) or sys.exit(2), "2 lines"),
    ],
)
def test_every_fault_is_seen(work, fault):
    verdict, text = outcome(isolate(work), [], 0)
    assert verdict == "fault"
    assert text.startswith(fault)


def test_work_without_an_end_is_a_fault():
    assert outcome(isolate(lambda place: time.sleep(60), seconds=0.2), [], 0)[1].startswith("no end")


def test_much_memory_is_a_fault():
    ending = isolate(lambda place: np.ones(300 << 20, np.uint8).sum())
    assert ending.memory_mb > 250
    assert outcome(ending._replace(memory_mb=5000), [], 100)[0] == "fault"


class Original:
    """A folder with a file of each kind, and a command that reads one of them."""

    name, targets = "toy", ("files",)

    @staticmethod
    def write(folder):
        files = folder / "files"
        files.mkdir(parents=True)
        (files / "config.json").write_text(json.dumps({"size": 3, "names": ["a", "b"], "inner": {"rate": 0.5}}))
        (files / "config.yaml").write_text(yaml.safe_dump({"size": 3, "inner": {"rate": 0.5}}))
        (files / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n')
        save_file({"weight": torch.ones(3, 4)}, files / "model.safetensors")
        np.save(files / "frames.npy", np.ones((3, 4), np.uint8))
        pq.write_table(pa.table({"index": [0, 1], "state": [0.5, 1.5]}), files / "data.parquet")
        return folder

    @staticmethod
    def read():
        try:
            check_links(Path("files"))
            for file in Path("files").iterdir():
                check_regular(file, 1 << 20)
            read_json(Path("files/config.json"))
        except (UserError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)


@pytest.mark.parametrize("name", MUTATIONS)
def test_mutations_change_files_and_are_the_same_again(name, tmp_path, monkeypatch):
    monkeypatch.setenv("FUZZ_CACHE", str(tmp_path))
    good = Good(Original, Original.write(tmp_path / "good"), 0)
    assert applicable(list_scene(good.folder, ("files",), tmp_path)) == list(MUTATIONS)
    before = fuzz_files.content(good.folder)
    cases = [run_case(good, name, random.Random(3)) for _ in range(2)]
    assert fuzz_files.content(good.folder) == before
    assert cases[0]["where"] == cases[1]["where"]
    assert cases[0]["outcome"] == cases[1]["outcome"] != "fault"
    if name in ("entry a link out", "entry a pipe", "entry a device", "file huge"):
        assert cases[0]["outcome"] == "refused"


@pytest.mark.slow
@pytest.mark.parametrize("kind", fuzz_files.NAMES)
def test_mutated_files_of_a_kind_do_no_harm(kind, tmp_path, monkeypatch):
    monkeypatch.setenv("FUZZ_CACHE", str(tmp_path))
    result = fuzz_files.fuzz(kind, fuzz_files.Settings(cases=8, seed=1), {})
    assert result["faults"] == []
    assert result["works"] + result["refused"] > 4
