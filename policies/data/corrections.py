"""Corrections in recordings of a policy's runs: which frames are trained on, and how often (DAgger, HG-DAgger)."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from lerobot.datasets import LeRobotDataset
from torch import Tensor

from tinyvla.errors import UserError
from tinyvla.untrusted import inside, read_json

INTERVENTION = "intervention"  # column of a recording: true while a person had taken over
_ORIGIN = "meta/made_from.json"  # of a dataset that shows several others: their folders and episodes, in its order


class SampleCounts(NamedTuple):
    """Use of every frame as a sample.

    Attributes:
        counts: how often it is in an epoch, int64 (N,); 0: never.
        last: last frame of its action chunk, int64 (N,), later steps are padding. It ends with the correction.
        summary: one line about both.
    """

    counts: Tensor
    last: Tensor
    summary: str


def count_samples(
    dataset: LeRobotDataset, last: Tensor, weight: int = 1, policy_frames: bool = False
) -> SampleCounts | None:
    """Counts of a dataset's frames; None for one without corrections or frames of a policy: every frame counts once.

    Of a policy's run, only the corrections are demonstrations of the right action, so its other frames are left out,
    whether the run succeeded or not. An episode in which a person steered all the time is a demonstration, as is one
    without the column `intervention`. A dataset with frames of policies and nothing else is used as it is.

    Args:
        dataset: of demonstrations, recordings or both.
        last: last frame of each frame's episode, (N,).
        weight: how often a correction counts.
        policy_frames: use the policy's frames too, once.

    Raises UserError if the recordings that a dataset was made from are not there any more.
    """
    steered = interventions_of(dataset)
    if steered is None:
        return None
    is_person, is_run = torch.from_numpy(steered[0]), torch.from_numpy(steered[1])
    frames = torch.arange(len(last))
    steered_frames = torch.zeros(len(last), dtype=torch.int64).index_add_(0, last, is_person.long())
    lengths = torch.zeros(len(last), dtype=torch.int64).index_add_(0, last, torch.ones_like(frames))
    is_run = is_run & (steered_frames < lengths)[last]  # else a person steered all of the episode
    is_correction, is_policy = is_run & is_person, is_run & ~is_person
    counts = torch.where(is_correction, weight, torch.where(is_policy, int(policy_frames), 1))
    if not is_run.any() or not counts.any():
        return None
    ends = last.clone()
    if not policy_frames:  # a chunk that went on into the policy's actions would teach them
        breaks = torch.where(is_policy, frames, len(last))
        next_break = torch.flip(torch.cummin(torch.flip(breaks, [0]), 0).values, [0])
        ends = torch.minimum(last, next_break - 1).maximum(frames)
    summary = (
        f"{int((~is_run).sum())} frames of demonstrations; {int(is_correction.sum())} of corrections, each counted "
        f"{weight} times; {int(is_policy.sum())} of a policy, {'counted once' if policy_frames else 'left out'}"
    )
    return SampleCounts(counts, ends, summary)


def interventions_of(dataset: LeRobotDataset) -> tuple[np.ndarray, np.ndarray] | None:
    """Frames that a person steered, and frames of recordings that say so, bool (N,) each; None if none says so."""
    if INTERVENTION in dataset.meta.features:
        return _column(dataset), np.ones(len(dataset), bool)
    file = dataset.root / _ORIGIN
    return _of_sources(dataset, file) if file.is_file() else None


def _of_sources(dataset: LeRobotDataset, file: Path) -> tuple[np.ndarray, np.ndarray] | None:
    """The same for a dataset that shows several, of which some have the column."""
    from .frames import open_dataset

    steered, is_run = np.zeros(len(dataset), bool), np.zeros(len(dataset), bool)
    start = episode = 0
    for source in read_json(inside(dataset.root, file.relative_to(dataset.root).as_posix())):
        lengths = [dataset.meta.episodes[episode + i]["length"] for i in range(len(source["episodes"]))]
        end, episode = start + sum(lengths), episode + len(lengths)
        root = Path(source["root"])
        if not (root / "meta/info.json").is_file():
            raise UserError(
                f"{dataset.root} was made from {root}, which is not there; delete the former to make it again"
            )
        recording = open_dataset(root)
        if INTERVENTION in recording.meta.features:
            spans = [recording.meta.episodes[number] for number in source["episodes"]]
            column = _column(recording)
            values = [column[span["dataset_from_index"] : span["dataset_to_index"]] for span in spans]
            if [len(part) for part in values] != lengths:
                raise UserError(f"{root} has changed since {dataset.root} was made from it; delete the latter")
            steered[start:end], is_run[start:end] = np.concatenate(values), True
        start = end
    return (steered, is_run) if is_run.any() else None


def _column(dataset: LeRobotDataset) -> np.ndarray:
    column = dataset.hf_dataset.select_columns([INTERVENTION]).with_format("arrow")[:].column(INTERVENTION)
    return np.asarray(column.to_numpy(), dtype=bool).reshape(-1)
