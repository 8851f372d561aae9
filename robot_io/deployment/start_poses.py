"""Start poses of episodes: one for all, or those with which the episodes of a recording begin."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from lerobot.utils.constants import OBS_STATE

from tinyvla.arms.episode import Episode
from tinyvla.errors import UserError

from ..safety import SafetyLimits

_TOLERANCE = 2.0  # degrees beyond a joint's limit at which a resting arm may have been recorded


def begin_at(
    start_pose: str | Sequence[float] | None, episodes: Sequence[Episode], limits: SafetyLimits
) -> list[Episode]:
    """Episodes that begin at a pose, or each at the first state of the next episode of a recording, in turn.

    Args:
        start_pose: one number per joint, or the folder of a LeRobotDataset of this arm; None: the episodes as they are.
        episodes: of a run.
        limits: of the arm's joints.

    Raises UserError for a recording of other joints, or in other units: with a pose outside of the limits.
    """
    if start_pose is None:
        return list(episodes)
    poses = _recorded_poses(Path(start_pose), limits) if isinstance(start_pose, str) else [list(start_pose)]
    return [replace(episode, start_pose=poses[index % len(poses)]) for index, episode in enumerate(episodes)]


def _recorded_poses(root: Path, limits: SafetyLimits) -> list[list[float]]:
    """First state of every episode of a recording, in the order of the limits' joints."""
    from policies.data import open_dataset
    from policies.data.batches import numbers_of
    from policies.data.inspection import Weight, inspect_recording
    from policies.data.recording import read_recording

    for finding in inspect_recording(read_recording(root)):
        if finding.weight == Weight.ERROR and finding.kind.startswith("units"):
            raise UserError(f"start_pose={root} is not in degrees; give one number per joint, or another recording")
    dataset = open_dataset(root)
    joints = list(limits.joints)
    names = [str(name).removesuffix(".pos") for name in dataset.meta.features.get(OBS_STATE, {}).get("names") or []]
    if sorted(names) != sorted(joints):
        raise UserError(
            f"start_pose={root} is a recording of {', '.join(names) or 'unnamed joints'}, and the arm has "
            f"{', '.join(joints)}; give a recording of this arm, or one number per joint"
        )
    order = [names.index(joint) for joint in joints]
    states = numbers_of(dataset, OBS_STATE).numpy()[list(dataset.meta.episodes["dataset_from_index"])][:, order]
    for episode, pose in enumerate(states):
        for value, (joint, limit) in zip(pose, limits.joints.items(), strict=True):
            if not limit.min - _TOLERANCE <= value <= limit.max + _TOLERANCE:
                raise UserError(
                    f"start_pose={root}: episode {episode} begins with {joint} at {value:.1f}, outside of the arm's "
                    f"{limit.min:g} to {limit.max:g}; give a recording in degrees, of this arm"
                )
    low, high = ([getattr(limit, side) for limit in limits.joints.values()] for side in ("min", "max"))
    return np.clip(states.astype(float), low, high).tolist()
