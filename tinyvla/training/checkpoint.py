"""Checkpoints of a training run: complete or absent, with the full state to resume from."""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError

from ..errors import UserError, one_line

MODEL = "pretrained_model"
_STATE = Path("training_state/state.pt")


class CheckpointWriter:
    """Builds `checkpoints/<step>` in a temporary folder; `finish` moves it to its place.

    Left without `finish`, it leaves nothing behind and takes nothing away. Writing raises UserError on a full disk.
    """

    def __init__(self, run_dir: Path, step: int):
        self._place = run_dir / "checkpoints" / f"{step:06d}"
        self._folder = self._place.with_name(f".{self._place.name}.tmp")

    def __enter__(self) -> Self:
        shutil.rmtree(self._folder, ignore_errors=True)
        with _disk_trouble(self._place):
            self._folder.mkdir(parents=True)
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def add_model(self, save: Callable[[Path], None]) -> Path:
        """Call `save` with the folder of the model; returns that folder."""
        with _disk_trouble(self._place):
            save(self._folder / MODEL)
        return self._folder / MODEL

    def finish(self, state: dict[str, Any], is_best: bool) -> None:
        """Add the state to resume from, move the checkpoint to its place, and delete all but the last and the best.

        Args:
            state: anything that torch.load reads with weights_only.
            is_best: point `checkpoints/best` to it, as `checkpoints/last`.
        """
        with _disk_trouble(self._place):
            (self._folder / _STATE).parent.mkdir()
            torch.save(state, self._folder / _STATE)
            for file in self._folder.rglob("*"):
                if file.is_file():
                    with file.open("rb") as opened:
                        os.fsync(opened.fileno())
        shutil.rmtree(self._place, ignore_errors=True)
        self._folder.replace(self._place)
        _point("last", self._place)
        if is_best:
            _point("best", self._place)
        best = self._place.with_name("best")
        keep = {self._place.name, os.readlink(best) if best.is_symlink() else ""}
        for folder in _finished(self._place.parent):
            if folder.name not in keep:
                shutil.rmtree(folder)


@contextmanager
def _disk_trouble(place: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        if isinstance(error, RuntimeError) and "inline_container" not in str(error):  # torch.save on a full disk
            raise
        raise UserError(
            f"the checkpoint {place} could not be written ({one_line(error)}); "
            "free some space, then go on with resume=true"
        ) from error


def _point(name: str, folder: Path) -> None:
    """Point the link `name` beside a checkpoint to it, atomically."""
    temporary = folder.with_name(f".{name}.tmp")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(folder.name)
    temporary.replace(folder.with_name(name))


def _finished(checkpoints: Path) -> list[Path]:
    """A run's checkpoints, oldest first."""
    folders = checkpoints.iterdir() if checkpoints.is_dir() else []
    return sorted(path for path in folders if re.fullmatch(r"\d+", path.name))


def last_step(run_dir: Path) -> int:
    """Step of a run's newest checkpoint, 0 if there is none."""
    checkpoints = _finished(run_dir / "checkpoints")
    return int(checkpoints[-1].name) if checkpoints else 0


def read_last_state(run_dir: Path) -> dict[str, Any] | None:
    """Training state of a run's newest checkpoint, None if there is none. Raises UserError if it is damaged."""
    checkpoints = _finished(run_dir / "checkpoints")
    if not checkpoints:
        return None
    try:
        return torch.load(checkpoints[-1] / _STATE, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file fails in as many ways as unpickling has steps
        raise UserError(
            f"the checkpoint {checkpoints[-1]} is damaged ({one_line(error)}); "
            "delete that folder, and resume=true goes on from an earlier one or from the start"
        ) from error
