"""Check that a policy fits an arm, before the first motion."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from lerobot.utils.constants import ACTION, OBS_STATE

from policies import Runner
from policies.image_size import CROP
from tinyvla.arms.units import has_range_ends
from tinyvla.errors import UserError

from ..safety import SafetyLimits

_BEYOND = 0.1  # share of a joint's range by which demonstrations may lie outside the safety limits
_SAME_SHAPE = 0.02  # difference of two ratios of width to height that no one sees
_GRIPPER = "gripper"  # 0 to 100 in both units of the joints
_MIN_USED = 0.1  # share of its range that at least one joint has to have used in the demonstrations


def check_fit(
    runner: Runner,
    features: Mapping[str, Any],
    limits: SafetyLimits,
    trained_names: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Raise UserError unless the policy's cameras, joints and units are those of the arm.

    Args:
        runner: the policy, which takes images of any size.
        features: the arm's `observation_features`: float for "<joint>.pos", (height, width, 3) for a camera.
        limits: of the arm.
        trained_names: names of the numbers in the policy's `observation.state` and `action`, from its dataset; a
            missing entry is not known.
    """
    cameras = {name: shape for name, shape in features.items() if isinstance(shape, tuple)}
    joints = [name for name in features if name not in cameras]
    _check_cameras(runner, cameras)
    _check_joints(runner, joints, limits, trained_names or {})
    for key, statistics in _statistics(runner).items():
        _check_statistics(key, statistics, limits)


def _check_cameras(runner: Runner, cameras: Mapping[str, tuple]) -> None:
    needed = runner.cameras
    if missing := sorted(set(needed) - set(cameras)):
        available = ", ".join(sorted(cameras)) or "none"
        raise UserError(
            f"the policy needs the cameras {', '.join(sorted(needed))} but the robot has {available}; add "
            f"{', '.join(missing)} to robot.cameras, or give a camera there the name that it had in training"
        )


def other_views(runner: Runner, features: Mapping[str, Any]) -> list[str]:
    """Cameras whose images have another shape than the policy's recordings, so that it sees another part: a line each.

    features: as of `check_fit`; a size that is None is not known and counts as the same.
    """
    lines = []
    for name, (height, width) in runner.recorded_cameras.items():
        camera_height, camera_width = features[name][:2]
        if camera_height is None or camera_width is None:
            continue
        if abs(camera_width / camera_height * height / width - 1) > _SAME_SHAPE:
            part = "their middle" if runner.image_fit == CROP else "all of them, between bars"
            lines.append(
                f"the camera {name} gives {camera_width}x{camera_height} pixels and the policy's recordings had "
                f"{width}x{height}: it sees {part}, another view than in training"
            )
    return lines


def _check_joints(
    runner: Runner, joints: Sequence[str], limits: SafetyLimits, trained_names: Mapping[str, Sequence[str]]
) -> None:
    limited = [f"{joint}.pos" for joint in limits.joints]
    if limited != list(joints):
        raise UserError(
            f"safety.joints are {', '.join(limits.joints)} but the robot has {', '.join(joints)}; choose the safety "
            "configuration of this robot, with its joints in this order"
        )
    config = runner.policy.config
    for key, feature in (("state", config.robot_state_feature), ("action", config.action_feature)):
        size = feature.shape[0] if feature is not None else 0
        if size != len(joints):
            raise UserError(
                f"the policy has a {size}-d {key} but the robot has {len(joints)} joints; use a policy that was "
                "trained with this robot"
            )
    for key in (OBS_STATE, ACTION):
        names = list(trained_names.get(key, joints))
        if names != list(joints):
            raise UserError(
                f"the policy was trained with an {key} of {', '.join(names)} but the robot has {', '.join(joints)}; "
                "use a policy that was trained with this robot"
            )


def _statistics(runner: Runner) -> dict[str, Mapping[str, Any]]:
    """Statistics of state and action, from the pipelines that normalise them."""
    statistics: dict[str, Mapping[str, Any]] = {}
    for pipeline, key in ((runner.preprocessor, OBS_STATE), (runner.postprocessor, ACTION)):
        for step in pipeline.steps:
            if values := (getattr(step, "stats", None) or {}).get(key):  # LeRobot's steps declare no common member
                statistics[key] = values
    return statistics


def _check_statistics(key: str, statistics: Mapping[str, Any], limits: SafetyLimits) -> None:
    low, high = _extent(statistics)
    if low is None or high is None:
        return
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise UserError(f"the policy's statistics of {key} are not finite; train it again")
    names = list(limits.joints)
    joint_low = np.array([joint.min for joint in limits.joints.values()])
    joint_high = np.array([joint.max for joint in limits.joints.values()])
    span = joint_high - joint_low
    outside = (low < joint_low - _BEYOND * span) | (high > joint_high + _BEYOND * span)
    if outside.any():
        i = int(np.argmax(outside))
        raise UserError(
            f"in the policy's training data {key} of {names[i]} went from {low[i]:.0f} to {high[i]:.0f} but the joint "
            f"goes from {joint_low[i]:.0f} to {joint_high[i]:.0f}; its data has other units or another calibration: "
            "use a policy that was trained with this robot"
        )
    body = [i for i, name in enumerate(names) if name != _GRIPPER]
    if has_range_ends(low[body], high[body]):
        raise UserError(
            f"in the policy's training data {key} goes to the ends of -100 to 100 and never beyond, as recordings with "
            "use_degrees=false do, and this robot is in degrees; train it again with dataset.calibration=<the .json of "
            "the arm that recorded the data>"
        )
    if ((high - low) < _MIN_USED * span).all():
        raise UserError(
            f"in the policy's training data {key} covers less than a tenth of every joint's range (in units of "
            "degrees, grippers 0 to 100), as radians do; use a policy that was trained in this robot's units"
        )


def _extent(statistics: Mapping[str, Any]) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Lowest and highest value of each number, None if the statistics do not contain them."""
    if "min" in statistics and "max" in statistics:
        return tuple(np.asarray(statistics[end], dtype=float).ravel() for end in ("min", "max"))  # type: ignore[return-value]
    if "mean" in statistics and "std" in statistics:
        mean, std = (np.asarray(statistics[name], dtype=float).ravel() for name in ("mean", "std"))
        return mean - 2 * std, mean + 2 * std
    return None, None
