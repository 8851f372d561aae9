"""The dataset of a run: recognised by its fingerprint when the run is resumed, normalised as when the run began."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from lerobot.datasets import LeRobotDataset, LeRobotDatasetMetadata

from tinyvla.errors import UserError
from tinyvla.files import finished_checkpoints, write_whole
from tinyvla.untrusted import read_json_object

from .dataset_files import STATS, as_arrays, as_lists, check_statistics, fingerprint
from .motionless import describe_motionless, with_scales
from .streaming import READ_ERRORS, no_dataset

FILE = "dataset.json"  # of a run's folder


def download(repo_id: str, data_dir: Path) -> Path:
    """Folder of a dataset of the model hub, downloaded to `data_dir` if necessary.

    Raises UserError if there is no dataset of that name.
    """
    try:
        return LeRobotDataset(repo_id, root=data_dir / repo_id.replace("/", "--")).root
    except READ_ERRORS as error:
        raise no_dataset(repo_id, error) from error


def keep_statistics(
    run_dir: Path, meta: LeRobotDatasetMetadata, accept_changed: bool = False, is_writer: bool = True
) -> dict[str, dict[str, np.ndarray]]:
    """Normalisation statistics of a run: those of its dataset when the run began.

    A new run stores the dataset's fingerprint and statistics in its folder; numbers that stand still in all recordings
    have the scale of one unit there, and the run prints which they are. A resumed run reads them there; a dataset
    that has changed since is refused, or accepted with `accept_changed`: then the run goes on with its own statistics,
    which its weights are trained for, and the order of its samples is that of the new number of frames.

    Args:
        run_dir: folder of the run.
        meta: of the dataset.
        accept_changed: go on with a changed dataset.
        is_writer: False in all processes but the first of a distributed run.

    Raises UserError for a changed dataset, or if the run's file is damaged.
    """
    file = run_dir / FILE
    present = {"frames": meta.total_frames, "episodes": meta.total_episodes, "fingerprint": fingerprint(meta.root)}
    if not file.exists():
        check_statistics(meta.stats or {}, meta.root / STATS)
        is_older = bool(finished_checkpoints(run_dir))  # its weights are trained for the statistics as they are
        stats = as_lists(meta.stats or {} if is_older else with_scales(meta.stats or {}, meta.features))
        if is_writer:
            if not is_older and (line := describe_motionless(meta.stats or {}, meta.features)):
                print(line)
            write_whole(file, json.dumps({**present, "stats": stats}))
        return as_arrays(stats)
    stored = read_json_object(file)
    if not isinstance(stored.get("stats"), dict):
        raise UserError(f"{file} holds no statistics; restore that file, or start a new run")
    check_statistics(stored["stats"], file)
    if stored.get("fingerprint") != present["fingerprint"]:
        change = _describe_change(stored, present)
        if not accept_changed:
            raise UserError(
                f"the dataset {meta.root} has changed since this run began ({change}); start a new run, or go on with "
                "the run's own normalisation by dataset.accept_changed=true"
            )
        if is_writer:
            print(f"the dataset has changed ({change}); the run goes on with its own normalisation")
            write_whole(file, json.dumps({**present, "stats": stored["stats"]}))
    return as_arrays(stored["stats"])


def _describe_change(stored: dict[str, Any], present: dict[str, Any]) -> str:
    changes = [
        f"{present[name]} {name} instead of {stored.get(name)}"
        for name in ("frames", "episodes")
        if present[name] != stored.get(name)
    ]
    return ", ".join(changes) or "other episodes, tasks or statistics"
