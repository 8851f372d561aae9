"""Errors of predicted action chunks, per joint and by the time ahead."""

from collections.abc import Mapping, Sequence

import numpy as np

TIMES = (0.1, 0.2, 0.5, 1.0)  # seconds ahead
ALL_JOINTS = "mean"
DEGREES, PERCENT = "°", "of 100"
_ARMS = ("so101", "so100", "koch", "omx")  # whose joints LeRobot records in degrees, and the gripper from 0 to 100
_DIGITS = 4


def summarise_errors(
    predicted: np.ndarray, recorded: np.ndarray, steps: int, fps: float, joints: Sequence[str]
) -> dict[str, dict[str, float | None]]:
    """Absolute errors by joint and, under `mean`, their mean over the joints.

    `executed` and `p95` are the mean and the 95th percentile over the first `steps` actions of the chunks. A time in
    seconds, such as `0.5`, is the mean over the actions that many seconds after the observation; None beyond the chunk.

    Args:
        predicted: (N, H, A).
        recorded: (N, H, A), NaN after the end of an episode.
        steps: executed actions of a chunk.
        fps: actions per second.
        joints: names of the A numbers of an action.
    """
    errors = np.abs(predicted - recorded)
    columns = {joint: errors[:, :, index] for index, joint in enumerate(joints)}
    if ALL_JOINTS not in columns:
        columns[ALL_JOINTS] = errors.mean(axis=2)
    return {name: _figures(column, steps, fps) for name, column in columns.items()}


def _figures(errors: np.ndarray, steps: int, fps: float) -> dict[str, float | None]:
    executed = errors[:, :steps]
    figures = {"executed": mean_error(executed), "p95": _rounded(np.nanpercentile(executed, 95))}
    for seconds in TIMES:
        step = round(seconds * fps)
        figures[f"{seconds:g}"] = mean_error(errors[:, step]) if 0 < step < errors.shape[1] else None
    return figures


def executed_error(figures: Mapping[str, float | None]) -> float:
    """Mean over the executed actions; there always is one, the first action of a chunk."""
    assert figures["executed"] is not None
    return figures["executed"]


def mean_error(differences: np.ndarray) -> float | None:
    """Mean absolute difference of recorded actions, without those after an episode's end; None if there are none."""
    is_recorded = np.isfinite(differences)
    return _rounded(np.abs(differences[is_recorded]).mean()) if is_recorded.any() else None


def units_of(joints: Sequence[str], robot_type: str | None) -> list[str]:
    """Unit of every joint's number: degrees, or 0 to 100 for a gripper; empty where the robot's are not known."""
    if not any(arm in (robot_type or "") for arm in _ARMS):
        return [""] * len(joints)
    return [PERCENT if "gripper" in joint else DEGREES for joint in joints]


def _rounded(value: float) -> float:
    return round(float(value), _DIGITS)
