"""Checkpoints of a training run: complete or absent, with the full state to resume from.

A checkpoint appears by one rename. It holds the state to resume from and the step of the best checkpoint, so that the
links `best` and `last` and the deletion of older ones can follow later: `settle` does both, after a save and where a
run begins again.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError

from ..errors import UserError, one_line
from ..files import (
    BEST_STEP,
    MODEL,
    best_checkpoint,
    clear_temporary_folders,
    discard,
    finished_checkpoints,
    sync,
    sync_folder,
)
from ..tensor_files import load_plain
from ..untrusted import inside

_STATE = Path("training_state/state.pt")


class CheckpointWriter:
    """Builds `checkpoints/<step>` in a temporary folder; `finish` moves it to its place.

    Left without `finish`, it leaves nothing behind and takes nothing away. Writing raises UserError on a full disk.
    """

    def __init__(self, run_dir: Path, step: int):
        self._run_dir, self._step = run_dir, step
        self._place = run_dir / "checkpoints" / f"{step:06d}"
        self._folder = self._place.with_name(f".{self._place.name}.tmp")

    def __enter__(self) -> Self:
        with _disk_trouble(self._place):
            if self._folder.exists():
                shutil.rmtree(self._folder)
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
        best = best_checkpoint(self._run_dir)
        best_step = self._step if is_best else best and int(best.name)
        with _disk_trouble(self._place):
            (self._folder / _STATE).parent.mkdir()
            torch.save(state, self._folder / _STATE)
            (self._folder / BEST_STEP).write_text(json.dumps({"step": best_step}))
            sync_folder(self._folder)
            discard(self._place)
            self._folder.replace(self._place)
            sync(self._place.parent)
            settle(self._run_dir)


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


def settle(run_dir: Path) -> None:
    """Point a run's links `best` and `last` as its newest checkpoint says, then delete all other checkpoints.

    A killed process may have left this undone, and temporary files. Only one process at a time may call this.
    """
    finished = finished_checkpoints(run_dir)
    if (run_dir / "checkpoints").is_dir():
        clear_temporary_folders(run_dir / "checkpoints")
    if not finished:
        return
    best = best_checkpoint(run_dir)
    _point("best", best, run_dir)
    _point("last", finished[-1], run_dir)
    for folder in finished:
        if folder not in (best, finished[-1]):
            discard(folder)


def _point(name: str, checkpoint: Path | None, run_dir: Path) -> None:
    """Point the link `name` to a checkpoint, atomically."""
    link = run_dir / "checkpoints" / name
    if checkpoint is None or (link.is_symlink() and os.readlink(link) == checkpoint.name):
        return
    temporary = link.with_name(f".{name}.tmp")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(checkpoint.name)
    temporary.replace(link)
    sync(link.parent)


def last_step(run_dir: Path) -> int:
    """Step of a run's newest checkpoint, 0 if there is none."""
    finished = finished_checkpoints(run_dir)
    return int(finished[-1].name) if finished else 0


def read_last_state(run_dir: Path) -> dict[str, Any] | None:
    """Training state of a run's newest checkpoint, None if there is none. Raises UserError if it is damaged."""
    if not finished_checkpoints(run_dir):
        return None
    with restoring(run_dir):
        state = load_plain(inside(finished_checkpoints(run_dir)[-1], str(_STATE)))
        if state["step"] != last_step(run_dir) or not isinstance(state.get("best", 0.0), float | int):
            raise ValueError("it is the state of another step")
    return state


@contextmanager
def restoring(run_dir: Path) -> Iterator[None]:
    """Raise UserError for whatever goes wrong with the state of a run's newest checkpoint."""
    try:
        yield
    except Exception as error:  # a damaged file fails in as many ways as reading has steps
        raise UserError(
            f"the checkpoint {finished_checkpoints(run_dir)[-1]} is damaged ({one_line(error, 120)}); "
            "delete that folder, and resume=true goes on from an earlier one or from the start"
        ) from error
