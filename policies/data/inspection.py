"""Faults of a recording, each with its fix: for the table of inspect_dataset.py and the lines of train.py."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
from lerobot.utils.constants import ACTION, OBS_STATE

from tinyvla.arms.units import MAX_RADIANS, Units, body_joints, units_of
from tinyvla.errors import UserError

from .motionless import motionless
from .recording import Recording

_IMAGES = ("image", "video")
_MOST_NAMED = 5  # episodes or joints in one line
_FASTEST = 720.0  # degrees per second; a servo of these arms turns half as fast
_JUMP, _USUAL = 0.25, 8.0  # share of the range, and multiple of the usual fast step, of numbers without a unit
_COPIES = 0.999  # share of frames whose action is the state


class Weight(IntEnum):
    """Importance of a finding."""

    NOTE = 0  # the table has it
    WARNING = 1  # train.py prints it
    ERROR = 2  # train.py refuses the dataset


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong in a recording.

    Args:
        kind: short name, the same for every dataset.
        fault: the fault with its place.
        fix: the remedy, a command or a setting where there is one.
        weight: of the finding.
    """

    kind: str
    fault: str
    fix: str
    weight: Weight = Weight.WARNING

    def __str__(self) -> str:
        return f"{self.fault}; {self.fix}"


def check_recording(recording: Recording, has_calibration: bool = False) -> list[Finding]:
    """Warnings about a recording. Raises UserError for the first fault that it cannot be trained with.

    has_calibration: `dataset.calibration` is given, so that its positions become degrees.
    """
    findings = inspect_recording(recording)
    if has_calibration:
        findings = [finding for finding in findings if not finding.kind.startswith("units")]
    for finding in findings:
        if finding.weight == Weight.ERROR:
            raise UserError(str(finding))
    if has_calibration:
        _check_convertible(recording)
    return [finding for finding in findings if finding.weight == Weight.WARNING]


def inspect_recording(recording: Recording) -> list[Finding]:
    """Everything that is wrong in a recording, the gravest first."""
    findings = list(inspect_features(recording.root, recording.features))
    for inspect in _INSPECTIONS:
        findings += inspect(recording)
    return sorted(findings, key=lambda finding: -finding.weight)


def inspect_features(root: Path, features: Mapping[str, Mapping[str, Any]]) -> Iterator[Finding]:
    """Faults of a dataset's features: keys, cameras and the sizes of their images."""
    vectors = [key for key, feature in features.items() if _is_vector(feature)]
    cameras = {key: feature for key, feature in features.items() if feature["dtype"] in _IMAGES}
    missing = [key for key in (OBS_STATE, ACTION) if key not in features]
    if missing:
        spare = [key for key in vectors if key not in (OBS_STATE, ACTION) and not _is_index(key)]
        pairs = {old: key for key in missing if (old := _likely(key, spare, missing)) is not None}
        fix = f"'dataset.rename={{{', '.join(f'{old}: {new}' for old, new in pairs.items())}}}'" if pairs else ""
        yield Finding(
            "keys",
            f"{root} has no {' and no '.join(missing)}; its keys are {', '.join(_own_keys(features)) or 'none'}",
            f"name them with {fix}" if fix else "record the positions of the arm as well",
            Weight.ERROR,
        )
    if not cameras:
        yield Finding(
            "no cameras",
            f"{root} has no cameras (features of the type image or video)",
            "every policy here needs images: record with cameras, as in lerobot-record --robot.cameras=...",
            Weight.ERROR,
        )
    for key, feature in cameras.items():
        channels = feature["shape"][-1] if len(feature["shape"]) == 3 else 0
        rest = [name.removeprefix("observation.images.") for name in cameras if name != key]
        fix = f"leave it out: dataset.cameras=[{','.join(rest)}]" if rest else "record a colour camera"
        if channels != 3 or _is_depth(feature):
            sort = "a depth image" if _is_depth(feature) else f"of the shape {tuple(feature['shape'])}"
            yield Finding("channels", f"{key} is {sort}, and policies see three colours", fix, Weight.ERROR)
        if not key.startswith("observation.images."):
            new = f"observation.images.{key.rpartition('.')[2]}"
            if key.startswith("observation.image"):
                continue  # LeRobot's policies read it
            yield Finding(
                "keys",
                f"the camera {key} is not below observation.images",
                f"name it with 'dataset.rename={{{key}: {new}}}'",
                Weight.ERROR,
            )


def _units(recording: Recording) -> Iterator[Finding]:
    units, joints = recording_units(recording)
    if units == Units.HUNDREDS:
        yield Finding(
            "units",
            f"the joints of {recording.root} are in -100 to 100 of their calibrated ranges (use_degrees=false), "
            "not in degrees",
            "give the calibration of the arm that recorded them, dataset.calibration=<its .json>",
            Weight.ERROR,
        )
    elif units == Units.EITHER:
        yield Finding(
            "units unknown",
            f"the joints of {recording.root} may be degrees or -100 to 100 of their ranges, their values fit both; "
            f"they count as degrees ({', '.join(joints)})",
            "if they were recorded with use_degrees=false, add dataset.calibration=<the arm's .json>",
        )
    elif units == Units.RADIANS:
        yield Finding(
            "units in radians",
            f"the joints of {recording.root} never leave -{MAX_RADIANS} to {MAX_RADIANS}, as radians do, and the arms "
            "here are in degrees: no policy of it can be deployed on them",
            "record it in degrees (use_degrees=true)",
        )


def recording_units(recording: Recording) -> tuple[Units, list[str]]:
    """Units of a recording's joints, and the names of the joints with the question."""
    key = next((key for key in (OBS_STATE, ACTION) if key in recording.columns), None)
    if key is None or not np.isfinite(values := recording.columns[key]).all():
        return Units.OTHER, []
    names = recording.names(key)
    robot_type = recording.info.get("robot_type")
    units = units_of(None if robot_type is None else str(robot_type), names, values)
    return units, [names[i].removesuffix(".pos") for i in body_joints(names)]


def _check_convertible(recording: Recording) -> None:
    for key in (OBS_STATE, ACTION):
        names = recording.names(key)
        highest = np.abs(recording.columns[key]).max(0)
        for i in body_joints(names):
            if highest[i] > 101:
                raise UserError(
                    f"dataset.calibration converts -100 to 100 and {names[i]} of {key} reaches {highest[i]:.0f}, so it "
                    "is in degrees already; leave dataset.calibration out"
                )


def _not_finite(recording: Recording) -> Iterator[Finding]:
    for key, values in recording.columns.items():
        bad = ~np.isfinite(values)
        if not bad.any():
            continue
        frame, number = (int(place) for place in np.argwhere(bad)[0])
        episode, step = recording.place(frame)
        episodes = recording.episodes_with(bad.any(1))
        yield Finding(
            "not finite",
            f"{recording.names(key)[number]} of {key} is {values[frame, number]:g} in episode {episode}, frame {step}"
            + (f" (and in {len(episodes) - 1} more episodes)" if len(episodes) > 1 else ""),
            _without(recording, episodes),
            Weight.ERROR,
        )


def _timestamps(recording: Recording) -> Iterator[Finding]:
    """Frames whose order or time is not that of the images."""
    times, numbers = recording.indices["timestamp"], recording.indices["episode_index"]
    expected = np.arange(len(times)) - np.repeat(recording.starts, recording.lengths)
    starts = np.repeat(numbers[recording.starts], recording.lengths)
    if (numbers != starts).any():
        episode, step = recording.place(int(np.argmax(numbers != starts)))
        yield Finding(
            "order of frames",
            f"frame {step} of episode {episode} is of another episode in the data of {recording.root}",
            "get a complete copy of the dataset",
            Weight.ERROR,
        )
        return
    with np.errstate(invalid="ignore"):
        wrong = ~(np.abs(times - expected / recording.fps) < 0.5 / recording.fps)
    if wrong.any() and recording.cameras:
        frame = int(np.argmax(wrong))
        episode, step = recording.place(frame)
        episodes = recording.episodes_with(wrong)
        yield Finding(
            "timestamps",
            f"frame {step} of episode {episode} has the time {times[frame]:.3f} s, not {step / recording.fps:.3f} s, "
            "so that its images would be those of another frame",
            _without(recording, episodes),
            Weight.ERROR,
        )


def _motionless(recording: Recording) -> Iterator[Finding]:
    for key, names in motionless(statistics(recording), recording.features).items():
        if key == ACTION and len(names) == recording.columns[key].shape[1]:
            yield Finding(
                "constant action",
                f"the action is the same in all frames of {recording.root}",
                "a policy learns nothing from it: check that the leader was connected, and record again",
            )
            continue
        if key in recording.cameras:
            yield Finding("dark camera", f"{key} shows one colour", "check the camera")
            continue
        # keep_statistics prints one line about all of them when training begins.
        fix = "it is normalised with the scale of one unit; move it if the task needs it"
        yield Finding("motionless", f"{', '.join(names)} of {key} stands still", fix, Weight.NOTE)


def _jumps(recording: Recording) -> Iterator[Finding]:
    """Positions that change faster than an arm can move."""
    if OBS_STATE not in recording.columns:
        return
    values, names = recording.columns[OBS_STATE].astype(float), recording.names(OBS_STATE)
    steps = np.abs(np.diff(values, axis=0))
    steps[recording.starts[1:] - 1] = 0  # from one episode to the next
    if not len(steps) or not np.isfinite(steps).all():
        return
    joints = body_joints(names)
    highest = np.full(values.shape[1], np.inf)
    if joints and np.abs(values[:, joints]).max() > 7:
        highest[joints] = _FASTEST / recording.fps + 5
    else:
        typical = np.quantile(steps, 0.99, axis=0)
        highest = np.maximum(_JUMP * np.ptp(values, axis=0), _USUAL * typical)
        highest[typical == 0] = np.inf  # a number with a few values, as a gripper that is open or closed
    jumps = steps > highest
    if jumps.any():
        frame, number = (int(place) for place in np.argwhere(jumps)[0])
        episode, step = recording.place(frame + 1)
        episodes = recording.episodes_with(np.append(False, jumps.any(1)))
        yield Finding(
            "jumps",
            f"{names[number]} of {OBS_STATE} jumps by {steps[frame, number]:.4g} to frame {step} of episode {episode}, "
            f"faster than an arm moves ({int(jumps.sum())} jumps in {_some(episodes, 'episode')})",
            _without(recording, episodes),
        )


def _duplicates(recording: Recording) -> Iterator[Finding]:
    """Episodes with the same states and actions as an earlier one."""
    first: dict[bytes, int] = {}
    copies: dict[int, int] = {}
    for episode in range(len(recording.lengths)):
        rows = [np.ascontiguousarray(recording.episode(values, episode)) for values in recording.columns.values()]
        content = b"".join(values.tobytes() for values in rows)
        if rows and any(len(values) > 1 and np.ptp(values, axis=0).any() for values in rows):
            number = int(recording.numbers[episode])
            if (original := first.setdefault(content, number)) != number:
                copies[number] = original
    if copies:
        episode, original = next(iter(copies.items()))
        yield Finding(
            "duplicates",
            f"copies of other episodes: {_some(list(copies), 'episode')} ({episode} is the same as {original})",
            _without(recording, list(copies)),
        )


def _lengths(recording: Recording) -> Iterator[Finding]:
    short = recording.numbers[recording.lengths < 2].tolist()
    if short:
        yield Finding("short episodes", f"{_some(short, 'episode')} with a single frame", _without(recording, short))


def _instructions(recording: Recording) -> Iterator[Finding]:
    used = np.unique(recording.indices["task_index"])
    empty = [int(index) for index in used if not recording.instructions[index].strip()]
    if empty:
        episodes = recording.episodes_with(np.isin(recording.indices["task_index"], empty))
        yield Finding(
            "empty instruction",
            f"{_some(episodes, 'episode')} without an instruction",
            "deploy with instruction='' as well, or write the sentence into meta/tasks.parquet",
        )


def _copied_states(recording: Recording) -> Iterator[Finding]:
    """Actions that are the state of the same frame, from which a policy learns to stand still."""
    if OBS_STATE not in recording.columns or ACTION not in recording.columns:
        return
    state, action = recording.columns[OBS_STATE], recording.columns[ACTION]
    if state.shape == action.shape and np.ptp(state, axis=0).any():
        if (state == action).all(1).mean() > _COPIES:
            yield Finding(
                "action is state",
                f"the action of {recording.root} is the state of the same frame, not the leader's position",
                "record the leader's positions as actions; a policy learns to stand still from these",
            )
    elif state.shape != action.shape:
        yield Finding(
            "sizes",
            f"{OBS_STATE} has {state.shape[1]} numbers and {ACTION} has {action.shape[1]}",
            "it trains; deploy.py needs the same joints in both",
            Weight.NOTE,
        )


_INSPECTIONS: Sequence[Callable[[Recording], Iterator[Finding]]] = (
    _not_finite,
    _timestamps,
    _units,
    _motionless,
    _jumps,
    _duplicates,
    _lengths,
    _instructions,
    _copied_states,
)


def statistics(recording: Recording) -> dict[str, dict[str, Any]]:
    """Statistics by feature: of numbers from the data, of images as stored; without those that are not finite."""
    stats = {key: dict(kinds) for key, kinds in recording.stats.items() if key in recording.cameras}
    for key, column in recording.columns.items():
        values = column.astype(float)
        stats[key] = {"mean": values.mean(0), "std": values.std(0), "min": values.min(0), "max": values.max(0)}
    return {key: kinds for key, kinds in stats.items() if np.isfinite(np.asarray(kinds.get("mean", np.nan))).all()}


def _without(recording: Recording, episodes: Sequence[int]) -> str:
    """Setting that leaves episodes out."""
    rest = [int(number) for number in recording.numbers if number not in set(episodes)]
    if not rest:
        return "record it again"
    return f"leave {'it' if len(episodes) == 1 else 'them'} out: dataset.episodes=[{_ranges(rest)}]"


def _ranges(numbers: Sequence[int]) -> str:
    """Such as 0,2,5-9."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 2 else ",".join(map(str, run)) for run in runs)


def _some(numbers: Sequence[int], noun: str) -> str:
    """Such as `episodes 1, 2, 3` or `episodes 1, 2, 3, 4, 5 and 7 more`."""
    named = ", ".join(map(str, numbers[:_MOST_NAMED]))
    more = f" and {len(numbers) - _MOST_NAMED} more" if len(numbers) > _MOST_NAMED else ""
    return f"{noun}{'s' if len(numbers) > 1 else ''} {named}{more}"


def _is_vector(feature: Mapping[str, Any]) -> bool:
    return feature["dtype"] not in (*_IMAGES, "string", "language", "bool") and len(feature["shape"]) == 1


def _is_depth(feature: Mapping[str, Any]) -> bool:
    info = feature.get("info") or feature.get("video_info") or {}
    return isinstance(info, Mapping) and bool(info.get("is_depth_map") or info.get("video.is_depth_map"))


def _is_index(key: str) -> bool:
    return key in ("timestamp", "frame_index", "episode_index", "index", "task_index") or key.startswith("next.")


def _own_keys(features: Mapping[str, Any]) -> list[str]:
    return [key for key in features if not _is_index(key)]


def _likely(key: str, spare: Sequence[str], missing: Sequence[str]) -> str | None:
    """Key that probably holds what should be under `key`: one like it, or the only key that is left."""
    word = "action" if key == ACTION else "stat"
    alike = [name for name in spare if word in name]
    if not alike:
        alike = [name for name in spare if key == ACTION or "action" not in name]
    return alike[0] if len(alike) == 1 or (alike and word in alike[0]) else None
