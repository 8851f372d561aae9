"""Work that is killed and done again: saving, collecting, caching, evaluating and reporting, each on a small scale.

Every one compares the folder that the second attempt leaves with that of undisturbed work.
"""

import contextlib
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import envs.demos.collect
import envs.demos.dataset
import envs.evaluation
import policies.training  # loaded here once, and not in every process
from configs.composing import as_dict, load_config
from envs import decode_env
from envs.demos import ensure_dataset
from policies.data import cache_features, cache_frames, open_dataset
from tinyvla.files import model_in
from tinyvla.training import Tracker, Trainable, TrainerConfig, fit, read_metrics
from tinyvla.training.checkpoint import last_step, read_last_state

from .kill_points import Gate

TASK = "drawer-close-v3"
SMALL_ENV = [f"env.tasks=[{TASK}]", "env.image_size=32", "env.cameras=[corner2]", "env.max_steps=120"]
STEPS = 12
SCORES = {3: 0.5, 6: 0.75, 9: 0.25, 12: 0.5}  # of the validations, by step
_CLOCKS = ("train/samples_per_s", "train/data_share")


class InterruptedWork:
    """One kind of work on a small scale.

    Args:
        base: folder with the undisturbed result, `base/whole`, which the first call makes.

    `do(folder, gate)` does it, or goes on with it, and calls `gate` where kills begin. `check_killed` and `check` raise
    AssertionError: after the kill, and after `do` was called again.
    """

    name: str

    def __init__(self, base: Path):
        self.base, self.whole = base, base / self.name / "whole"
        self.whole.parent.mkdir(parents=True, exist_ok=True)

    def prepare(self, folder: Path) -> None:
        """Make the folder as it is before the work. Default: an empty one."""
        folder.mkdir(parents=True)

    def do(self, folder: Path, gate: Gate) -> None:
        raise NotImplementedError

    def check_killed(self, folder: Path) -> Any:
        """Check what a killed process left; returns what `check` needs to know of it."""

    def check(self, folder: Path, before: Any) -> None:
        assert names(folder) == names(self.whole), f"other files: {sorted(names(folder) ^ names(self.whole))}"


def names(folder: Path) -> set[str]:
    """Names of all files and folders in a folder, at any depth, except locks: a kill leaves an empty file, unlocked."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.name not in (".lock", ".run.lock")}


def hashes(folder: Path) -> dict[str, str]:
    """Hash of every file in a folder, except locks."""
    files = (folder / name for name in names(folder))
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files if file.is_file()
    }


class ToyTrainable(Trainable):
    """A linear map, trained on noise."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.module: Any = _Toy()

    def batch(self, step: int) -> dict[str, Any]:
        return {"x": torch.randn(4, 8, generator=torch.Generator().manual_seed(step))}

    def save(self, folder: Path, weights: dict[str, Tensor] | None = None) -> None:
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        save_file(dict(weights or self.module.state_dict()), folder / "model.safetensors")


class _Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 1)

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, None]:
        return (self.linear(batch["x"]) - batch["x"].sum()).square().mean() + torch.rand(()), None


class GatedTracker(Tracker):
    """Calls `gate` once the loss of step 3 is written: the first save follows."""

    def __init__(self, run_dir: Path, gate: Gate):
        super().__init__(run_dir, {"wandb": {"mode": "disabled"}})
        self._gate = gate

    def log(self, step: int, values: Any) -> None:
        super().log(step, values)
        if step == min(SCORES) and "train/loss" in values:
            self._gate()


class Save(InterruptedWork):
    """Training from its first checkpoint to its fourth and last; the second is the best."""

    name = "save"

    def do(self, folder: Path, gate: Gate) -> None:
        trainer = TrainerConfig(STEPS, 4, 1e-2, validate_every=3, save_every=3, log_every=1, bf16=False, num_threads=1)
        tracker = GatedTracker(folder, gate)
        accelerator = Accelerator(cpu=True)
        fit(ToyTrainable(), trainer, folder, 0, accelerator, tracker, lambda model: {"score": SCORES[_step(model)]})

    def check_killed(self, folder: Path) -> None:
        if last_step(folder):
            read_last_state(folder)
            self._check_best(folder)

    def check(self, folder: Path, before: None) -> None:
        super().check(folder, before)
        self._check_best(folder)
        assert os.readlink(folder / "checkpoints/best") == "000006"
        assert os.readlink(folder / "checkpoints/last") == "000012"
        assert _curve(folder) == _curve(self.whole), "another curve"
        _assert_equal(read_last_state(folder), read_last_state(self.whole))
        for step in ("000006", "000012"):
            file = f"checkpoints/{step}/pretrained_model/model.safetensors"
            _assert_equal(load_file(folder / file), load_file(self.whole / file))

    def _check_best(self, folder: Path) -> None:
        """Check that the best policy is that of the highest score until the last checkpoint."""
        best = max((step for step in SCORES if step <= last_step(folder)), key=lambda step: SCORES[step])
        model = model_in(folder)
        assert model, "no policy"
        assert _step(model.resolve()) == best, f"{model} is not of step {best}"
        load_file(model / "model.safetensors")


def _step(model: Path) -> int:
    return int(model.parent.name.strip(".tmp"))


def _curve(run_dir: Path) -> list[dict[str, Any]]:
    records = read_metrics(run_dir / "metrics.jsonl")
    return [{key: value for key, value in record.items() if key not in _CLOCKS} for record in records]


def _assert_equal(a: Any, b: Any) -> None:
    if isinstance(a, Tensor):
        assert torch.equal(a, b), "another tensor"
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            _assert_equal(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            _assert_equal(x, y)
    else:
        assert a == b, f"{a} is not {b}"


class InThisProcess:
    """Stands in for a pool of worker processes, so that every call of the work is one of this process."""

    def __init__(self, *_: Any) -> None:
        pass

    def __enter__(self) -> "InThisProcess":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future:
        future: Future = Future()
        try:
            future.set_result(function(*arguments))
        except Exception as error:
            future.set_exception(error)
        return future

    def map(self, function: Callable[..., Any], *arguments: Any) -> Iterator[Any]:
        return map(function, *arguments)


class Collect(InterruptedWork):
    """Two demonstrations of one task, and their dataset."""

    name = "collect"

    def do(self, folder: Path, gate: Gate) -> None:
        env = decode_env(as_dict(load_config("collect", SMALL_ENV).env))
        with (
            patch.object(envs.demos.collect, "worker_pool", InThisProcess),
            patch.object(envs.demos.dataset, "worker_pool", InThisProcess),
        ):
            gate()
            ensure_dataset(env, [TASK], 2, 0, folder / "data", 1)

    def check_killed(self, folder: Path) -> dict[Path, int]:
        """Times of the finished attempts."""
        return {file: file.stat().st_mtime_ns for file in (folder / "data").glob(f"attempts/*/{TASK}/[0-9]*")}

    def check(self, folder: Path, before: dict[Path, int]) -> None:
        super().check(folder, before)
        assert before.items() <= self.check_killed(folder).items(), "a finished attempt was played again"
        assert hashes(folder) == hashes(self.whole), "another dataset"


class _Dataset(InterruptedWork):
    """Work beside the dataset of `Collect`, whose undisturbed result must exist."""

    def prepare(self, folder: Path) -> None:
        (root,) = (self.base / Collect.name / "whole/data").glob("metaworld-*")
        shutil.copytree(root, folder / root.name)

    def dataset(self, folder: Path) -> Any:
        return open_dataset(next(folder.glob("metaworld-*")))

    def check(self, folder: Path, before: Any) -> None:
        super().check(folder, before)
        ours, theirs = hashes(folder), hashes(self.whole)
        assert [name for name in ours if ours[name] != theirs[name] and not name.endswith("stamp.json")] == []


class CacheFrames(_Dataset):
    """Decoded frames of a dataset."""

    name = "cache of frames"

    def do(self, folder: Path, gate: Gate) -> None:
        dataset = self.dataset(folder)
        gate()
        frames = cache_frames(dataset, 0)
        assert all(np.asarray(camera).any() for camera in frames.values())


class _Tower:
    """A backbone of which only the vision tower matters."""

    vision_settings = ("toy",)

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.vision_tower = nn.Conv2d(3, 2, 8, 8)

    def vision_features(self, images: Tensor) -> Tensor:
        return self.vision_tower(images.flatten(0, 1)).flatten(2).transpose(1, 2).unsqueeze(1)


class CacheFeatures(_Dataset):
    """Features of a dataset's frames."""

    name = "cache of features"

    def do(self, folder: Path, gate: Gate) -> None:
        dataset = self.dataset(folder)
        info = dataset.root / "meta/info.json"
        os.utime(info, (0, 0))  # on which the name of the cache depends
        frames = cache_frames(dataset, 0)
        gate()
        tower: Any = _Tower()
        cache_features(tower, dataset.root, frames, torch.device("cpu"), contextlib.nullcontext)


class Evaluate(InterruptedWork):
    """evaluate.py: three episodes, two of them filmed, the result and the report."""

    name = "evaluate"

    def do(self, folder: Path, gate: Gate) -> None:
        from tinyvla_scripts.evaluate import main

        if (folder / "run/report.html").exists():
            return  # all was written before the kill; the command would say that there is a run
        checkpoint = self.base / "policy"
        sys.argv = ["evaluate.py", f"checkpoint={checkpoint}", f"run_dir={folder / 'run'}", *SMALL_ENV, "episodes=3"]
        sys.argv += ["videos=2", "workers=1", "device=cpu"]
        with patch.object(envs.evaluation, "worker_pool", InThisProcess), self.gated(gate):
            main()

    def gated(self, gate: Gate) -> Any:
        gate()
        return patch.object(envs.evaluation, "check_writable", envs.evaluation.check_writable)

    def check_killed(self, folder: Path) -> list[str]:
        """Finished episodes; a result and a report are whole or absent."""
        for name in ("eval.json", "report.html"):
            if (file := folder / "run" / name).exists():
                assert json.loads(file.read_text()) if name == "eval.json" else "</html>" in file.read_text()
        journal = folder / "run/episodes.jsonl"
        return journal.read_text().split("\n")[1:-1] if journal.exists() else []

    def check(self, folder: Path, before: list[str]) -> None:
        super().check(folder, before)
        assert before == self.check_killed(folder)[: len(before)], "a finished episode was played again"
        ours, theirs = (json.loads((path / "run/eval.json").read_text()) for path in (folder, self.whole))
        for result in (ours, theirs):
            for figures in (result, *result["tasks"].values()):
                for clock in ("ms_per_action", "ms_per_action_p95"):
                    figures.pop(clock)
        assert ours == theirs, "another result"


class Report(Evaluate):
    """The end of `Evaluate`, from the last episode on."""

    name = "report"

    def gated(self, gate: Gate) -> Any:
        keep_videos = envs.evaluation.keep_videos

        def keep(*arguments: Any) -> Any:
            gate()
            return keep_videos(*arguments)

        return patch.object(envs.evaluation, "keep_videos", keep)


def write_policy(folder: Path) -> None:
    """A policy of few weights for `Evaluate`, trained for one step on the dataset of `Collect`."""
    base = folder.parent
    (root,) = (base / Collect.name / "whole/data").glob("metaworld-*")
    options = ["policy=tinyvla", "preset=cpu", f"dataset.root={root}", f"run_dir={base / 'run'}", "device=cpu"]
    options += ["trainer.steps=1", "trainer.batch_size=4", "trainer.bf16=false", "backbone.image_size=32"]
    options += ["decoder.network.widths=[16,32]", "decoder.network.step_embedding=16", "wandb.mode=disabled"]
    cfg = load_config("train", [*options, "policy.chunk_size=8", "policy.n_action_steps=4"])
    run_dir = base / "run"
    settings = policies.training.decode_run(as_dict(cfg))
    with Tracker(run_dir, as_dict(cfg)) as tracker:
        best = policies.training.train(settings, root, Accelerator(cpu=True), tracker)
    shutil.copytree(best, folder)
