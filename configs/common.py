"""Checks of the settings that entry points share, before anything is imported, written or collected."""

import re
import tempfile
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from tinyvla.errors import UserError, one_line
from tinyvla.machine import check_workers

SEEDS = 10_000  # values of `seed`: every one has episodes, images and draws of its own
MAX_EPISODES = 10_000  # per task and seed
_DEVICE = re.compile(r"auto|cpu|mps|(cuda|xpu|hip|npu)(:\d{1,3})?")
_OUTPUT_FOLDERS = ("run_dir", "data_dir", "export_dir", "pictures")
_WANDB_MODES = ("disabled", "offline", "online")
_LONGEST_NAME = 255  # bytes of a file's name


def check_common(cfg: DictConfig) -> None:
    """Raise UserError for a seed, device, number of episodes or workers, or folder to write to that cannot be."""
    if "seed" in cfg:
        _check_whole_number("seed", cfg.seed, 0, SEEDS - 1)
    if "episodes" in cfg:
        _check_whole_number("episodes", cfg.episodes, 1, MAX_EPISODES)
    if "device" in cfg and not (isinstance(cfg.device, str) and _DEVICE.fullmatch(cfg.device)):
        raise UserError(f"device={cfg.device} is not a device; use auto, cpu, cuda, cuda:1 or mps")
    if "workers" in cfg:
        check_workers(cfg.workers)
    if "wandb" in cfg and cfg.wandb.mode not in _WANDB_MODES:
        raise UserError(f"wandb.mode={cfg.wandb.mode} does not exist; use {', '.join(_WANDB_MODES)}")
    for name in _OUTPUT_FOLDERS:
        if name in cfg:
            check_output_folder(cfg[name], name)


def check_output_folder(value: Any, name: str) -> None:
    """Raise UserError unless files can be written below the folder `value`, which need not exist.

    name: of the setting.
    """
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{name} is not given; set {name}=<a folder>")
    if not value.isprintable():
        raise UserError(f"{name}={value!r} has a character that is not printable; choose another name")
    folder = Path(value).expanduser()
    if longest := [part for part in folder.parts if len(part.encode()) > _LONGEST_NAME]:
        raise UserError(f"{name} has a name of {len(longest[0])} characters; give at most {_LONGEST_NAME}")
    existing = next(place for place in (folder, *folder.absolute().parents) if place.exists() or place.is_symlink())
    if not existing.is_dir():
        raise UserError(f"{name}={value} cannot be a folder, since {existing} is a file; choose another {name}")
    try:
        tempfile.TemporaryFile(dir=existing).close()
    except OSError as error:
        raise UserError(f"{name}={value} cannot be written to ({one_line(error)}); choose another {name}") from error


def _check_whole_number(name: str, value: Any, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise UserError(f"{name}={value} does not fit; use a whole number from {low} to {high}")
