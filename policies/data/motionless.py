"""Numbers that stand still in all of a dataset, normalised with a sensible scale.

LeRobot divides by a standard deviation or a range of 0 as by 1e-8: an arm one encoder step away from where it stood in
the recordings would show the policy millions.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from tinyvla.arms.units import MAX_RADIANS, body_joints

from .dataset_files import number_names

_UNIT = 1.0  # degree, or one of a gripper's 100
_STILL_STD, _STILL_RANGE = 0.2, 1.0  # of the unit: below, a joint stands still
_SHARE_STILL, _SHARE = 1e-3, 1e-2  # of the typical scale, for numbers without a unit
_STILL_IMAGE = 0.004  # one of 255 values
_IMAGE = 0.05  # standard deviation of a camera that shows one colour
_ENDS = (("min", "max"), ("q01", "q99"), ("q10", "q90"))

type Stats = Mapping[str, Mapping[str, Any]]


def with_scales(stats: Stats, features: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Statistics in which numbers that stand still have the scale of a degree, or a share of the others' scale.

    All other statistics are the same objects.
    """
    scaled = {key: dict(kinds) for key, kinds in stats.items()}
    for key, kinds in stats.items():
        still, size = _still(key, kinds, features.get(key, {}))
        if not still.any():
            continue
        middle = np.asarray(kinds["mean"], float)
        replaced = {"std": np.full_like(middle, size)}
        for low, high in _ENDS:
            replaced |= {low: middle - size, high: middle + size}
        for kind, values in replaced.items():
            if kind in kinds and (kind == "std" or not _is_image(features.get(key, {}))):
                scaled[key][kind] = np.where(still, values, np.asarray(kinds[kind]))
    return scaled


def motionless(stats: Stats, features: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    """Names of the numbers that stand still in all frames, by feature; of a camera, that it shows one colour."""
    names: dict[str, list[str]] = {}
    for key, kinds in stats.items():
        feature = features.get(key, {})
        still, _ = _still(key, kinds, feature)
        if _is_image(feature):
            if still.size and still.all():
                names[key] = ["the image"]
        elif still.any():
            labels = number_names(feature)
            is_named = len(labels) == still.size
            names[key] = [labels[i] if is_named else f"number {i}" for i in np.flatnonzero(still.ravel())]
    return names


def describe_motionless(stats: Stats, features: Mapping[str, Mapping[str, Any]]) -> str | None:
    """One line about the numbers that stand still, None if there are none."""
    by_feature = motionless(stats, features)
    if not by_feature:
        return None
    places = "; ".join(f"{', '.join(names)} of {key}" for key, names in by_feature.items())
    return f"motionless in all recordings: {places}; normalised with the scale of one unit, not with none"


def _still(key: str, kinds: Mapping[str, Any], feature: Mapping[str, Any]) -> tuple[np.ndarray, float]:
    """Mask of the numbers that stand still, in the shape of the statistics, and the scale that they get."""
    none = np.zeros(0, bool), 0.0
    if not key.startswith(("observation.", "action")) or feature.get("dtype") in ("string", "language", "bool"):
        return none
    if any(kind not in kinds for kind in ("mean", "std", "min", "max")):
        return none
    mean, std, low, high = (np.asarray(kinds[kind], float) for kind in ("mean", "std", "min", "max"))
    if not mean.shape == std.shape == low.shape == high.shape:
        return none
    if _is_image(feature):
        return std < _STILL_IMAGE, _IMAGE
    span = high - low
    if body_joints(number_names(feature)) and np.abs([low, high]).max() > MAX_RADIANS:
        return (std < _STILL_STD * _UNIT) | (span < _STILL_RANGE * _UNIT), _UNIT
    moves = (std > 0) & (span > 0)
    typical = float(np.median(std[moves])) if moves.any() else max(float(np.abs(mean).max()), 1.0)
    typical_span = float(np.median(span[moves])) if moves.any() else typical
    return (std < _SHARE_STILL * typical) | (span < _SHARE_STILL * typical_span), _SHARE * typical


def _is_image(feature: Mapping[str, Any]) -> bool:
    return feature.get("dtype") in ("image", "video")
