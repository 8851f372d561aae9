"""Conversion of recordings in -100 to 100 to degrees, by the calibration of the arm that made them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from lerobot.utils.constants import ACTION, OBS_STATE

from tinyvla.arms.units import body_joints, degrees_per_unit
from tinyvla.errors import UserError

SCALE = "degrees_per_unit"  # of a feature whose values `convert_to_degrees` converts
_LINEAR = ("mean", "min", "max")


def convert_to_degrees(features: Mapping[str, dict[str, Any]], stats: Any, calibration: Path) -> dict[str, Any]:
    """Make the positions of a dataset degrees: its features get the factors, its statistics are converted.

    What reads the values of `observation.state` and `action` multiplies them, see `in_degrees`.

    Args:
        features: of the dataset; those of joints get the entry `degrees_per_unit`.
        stats: its statistics by feature.
        calibration: of the arm, see `degrees_per_unit`.

    Returns the statistics in degrees.
    """
    converted = dict(stats)
    for key in (OBS_STATE, ACTION):
        names: Any = features.get(key, {}).get("names")
        if not body_joints(names):
            raise UserError(
                f"dataset.calibration converts joints such as shoulder_pan.pos and {key} has "
                f"{names or 'no names'}; leave it out"
            )
        factors = degrees_per_unit(calibration, names)
        features[key][SCALE] = factors.tolist()
        if key in converted:
            converted[key] = _scaled(converted[key], factors)
    return converted


def in_degrees(values: Any, feature: Mapping[str, Any]) -> Any:
    """Values (..., n) of a feature as a tensor or array, converted where `convert_to_degrees` gave it factors."""
    if (factors := feature.get(SCALE)) is None:
        return values
    return values * (values.new_tensor(factors) if hasattr(values, "new_tensor") else np.asarray(factors, values.dtype))


def _scaled(statistics: Mapping[str, Any], factors: np.ndarray) -> dict[str, Any]:
    """Statistics of values that are multiplied by (n,) factors; a negative one swaps the ends."""
    scaled = {kind: np.asarray(values) for kind, values in statistics.items()}
    for kind, values in statistics.items():
        if kind in _LINEAR or kind.startswith("q"):
            scaled[kind] = np.asarray(values) * factors
        elif kind == "std":
            scaled[kind] = np.asarray(values) * np.abs(factors)
    for low, high in (("min", "max"), ("q01", "q99"), ("q10", "q90")):
        if low in scaled and high in scaled:
            scaled[low], scaled[high] = np.minimum(scaled[low], scaled[high]), np.maximum(scaled[low], scaled[high])
    return scaled
