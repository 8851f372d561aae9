"""Choice of cameras, episodes and tasks from datasets, with new names; checked before anything is written."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lerobot.datasets import LeRobotDatasetMetadata
from lerobot.utils.constants import OBS_IMAGES

from tinyvla.errors import UserError, did_you_mean

from ..image_size import camera_sizes
from .settings import DatasetConfig

FRAME_COLUMNS = ("timestamp", "frame_index", "episode_index", "index", "task_index")  # of every LeRobotDataset
_RANGE = re.compile(r"(\d{1,9})-(\d{1,9})")
_NAME = re.compile(r"[\w-]+(\.[\w-]+)*")


@dataclass(frozen=True)
class Source:
    """One of the datasets that are trained on as one.

    Args:
        meta: of the dataset.
        names: new key by recorded key of the features that are used.
        episodes: that are used, in order.
    """

    meta: LeRobotDatasetMetadata
    names: Mapping[str, str]
    episodes: Sequence[int]

    @property
    def features(self) -> dict[str, dict[str, Any]]:
        """Features that are used, by their new keys."""
        return {new: self.meta.features[key] for key, new in self.names.items()}

    @property
    def is_whole(self) -> bool:
        """All episodes are used."""
        return len(self.episodes) == self.meta.total_episodes


def select(dataset: DatasetConfig, metas: Sequence[LeRobotDatasetMetadata]) -> list[Source]:
    """The parts of datasets that settings choose, with the features that all of them have.

    Raises UserError for a name, an episode or a task that there is not, for names that fall together, and for datasets
    that cannot be trained on as one.
    """
    names = [_new_names(meta, dataset, metas) for meta in metas]
    episodes = _choose_episodes(dataset, metas)
    common = set.intersection(*(set(new.values()) for new in names))
    dropped = sorted({new for renamed in names for new in renamed.values()} - common)
    if cameras := [key for key in dropped if key.startswith(f"{OBS_IMAGES}.")]:
        raise UserError(
            f"not all of {_folders(metas)} have {cameras[0]}; leave it out by dataset.cameras, or give the cameras one "
            "name by dataset.rename"
        )
    sources = [
        Source(meta, {key: new for key, new in renamed.items() if new in common}, chosen)
        for meta, renamed, chosen in zip(metas, names, episodes, strict=True)
    ]
    _check_same(sources)
    if not any(source.episodes for source in sources):
        raise UserError("dataset.episodes, exclude_episodes and tasks leave no episode; choose more")
    return [source for source in sources if source.episodes]


def _new_names(
    meta: LeRobotDatasetMetadata, dataset: DatasetConfig, metas: Sequence[LeRobotDatasetMetadata]
) -> dict[str, str]:
    """New key by recorded key of the features of one dataset that are used."""
    renaming = {_key(name, metas, "dataset.rename"): new for name, new in (dataset.rename or {}).items()}
    names = {key: _new_key(key, renaming.get(key, key)) for key in meta.features if key not in FRAME_COLUMNS}
    if repeated := [new for new in names.values() if list(names.values()).count(new) > 1]:
        raise UserError(f"dataset.rename gives two features the name {repeated[0]}; give each another one")
    if dataset.cameras is None:
        return names
    chosen = {_key(name, metas, "dataset.cameras", renaming) for name in dataset.cameras}
    if not chosen:
        raise UserError("dataset.cameras is empty and a policy needs one; name a camera, or leave it out")
    return {key: new for key, new in names.items() if key not in meta.camera_keys or {key, new} & chosen}


def _key(
    name: str, metas: Sequence[LeRobotDatasetMetadata], setting: str, renaming: Mapping[str, str] | None = None
) -> str:
    """Key of a feature by its key or its camera's name, in any of the datasets; with `renaming` a new one as well."""
    only_cameras = renaming is not None
    keys = {key: None for meta in metas for key in (meta.camera_keys if only_cameras else meta.features)}
    keys |= {_new_key(key, new): None for key, new in (renaming or {}).items() if key in keys}
    for key in (name, f"{OBS_IMAGES}.{name}"):
        if key in keys:
            return key
    known = [key.removeprefix(f"{OBS_IMAGES}.") for key in keys if key not in FRAME_COLUMNS]
    raise UserError(f"{setting} names {name!r}, which {_folders(metas)} has not; {did_you_mean(name, known)}")


def _new_key(key: str, new: str) -> str:
    """Key of a feature with a new name; a camera's name is put behind `observation.images.`."""
    if not _NAME.fullmatch(new):
        raise UserError(f"dataset.rename gives {key} the name {new!r}; use letters, digits, _ and - between dots")
    is_camera = key.startswith(f"{OBS_IMAGES}.") and not new.startswith(f"{OBS_IMAGES}.")
    return f"{OBS_IMAGES}.{new}" if is_camera else new


def _choose_episodes(dataset: DatasetConfig, metas: Sequence[LeRobotDatasetMetadata]) -> list[list[int]]:
    """Numbers of the used episodes of every dataset. In the settings they are counted through all datasets."""
    count = sum(meta.total_episodes for meta in metas)
    chosen = set(range(count))
    if dataset.episodes is not None:
        chosen &= _numbers("dataset.episodes", dataset.episodes, count)
    if dataset.exclude_episodes is not None:
        chosen -= _numbers("dataset.exclude_episodes", dataset.exclude_episodes, count)
    tasks = dict.fromkeys(task for meta in metas for task in meta.tasks.index)
    for task in dataset.tasks or []:
        if task not in tasks:
            raise UserError(f"no episode has the task {task!r} of dataset.tasks; {did_you_mean(task, tasks)}")
    episodes, first = [], 0
    for meta in metas:
        numbers = [number - first for number in sorted(chosen) if first <= number < first + meta.total_episodes]
        if dataset.tasks is not None:
            numbers = [number for number in numbers if set(meta.episodes[number]["tasks"]) <= set(dataset.tasks)]
        episodes.append(numbers)
        first += meta.total_episodes
    return episodes


def _numbers(setting: str, entries: Iterable[int | str], count: int) -> set[int]:
    """Numbers of episodes from a list of numbers and ranges, such as [0, "5-9"], of which both ends count."""
    numbers: set[int] = set()
    for entry in entries:
        match = _RANGE.fullmatch(str(entry))
        if match is None and not str(entry).isdecimal():
            raise UserError(f"{setting} has {entry!r}; give numbers and ranges, such as {setting}=[0,2,5-9]")
        first, last = (int(end) for end in match.groups()) if match else (int(entry), int(entry))
        if not first <= last < count:
            raise UserError(f"{setting} has {entry} but the episodes go from 0 to {count - 1}; change that number")
        numbers |= set(range(first, last + 1))
    return numbers


def _check_same(sources: Sequence[Source]) -> None:
    """Raise UserError unless the datasets have one rate and the same features."""
    first = sources[0]
    for other in sources[1:]:
        if other.meta.fps != first.meta.fps:
            raise UserError(
                f"{first.meta.root} has {first.meta.fps} frames per second and {other.meta.root} {other.meta.fps}, so "
                "their actions are not the same; record all at one rate, or train on one of them"
            )
        sizes, other_sizes = camera_sizes(first.features), camera_sizes(other.features)
        for key, feature in first.features.items():
            pair = [_content(feature, sizes.get(key)), _content(other.features[key], other_sizes.get(key))]
            if pair[0] != pair[1]:
                raise UserError(
                    f"{key} is {pair[0]} in {first.meta.root} but {pair[1]} in {other.meta.root}; leave it out by "
                    "dataset.cameras, record it again, or train on one of them"
                )


def _content(feature: Mapping[str, Any], size: tuple[int, int] | None) -> str:
    """Content of a feature in words."""
    if size is not None:
        return f"{feature['dtype']} of {size[1]}x{size[0]} pixels"
    names = feature.get("names")
    text = ", ".join(map(str, names)) if isinstance(names, list | tuple) else "x".join(map(str, feature["shape"]))
    return f"{feature['dtype']} ({text})"


def _folders(metas: Sequence[LeRobotDatasetMetadata]) -> str:
    return ", ".join(str(meta.root) for meta in metas)
