"""Joints that stand still in all recordings: a sensible scale in every mode of normalisation, and one line."""

import json

import numpy as np
import pytest
import torch
from lerobot.configs import FeatureType, NormalizationMode, PolicyFeature
from lerobot.processor import NormalizerProcessorStep, UnnormalizerProcessorStep

from benchmarks.odd_recordings import NAMES, STEP, write_kind
from policies.data import open_dataset
from policies.data.motionless import describe_motionless, motionless, with_scales
from policies.data.run_dataset import FILE, keep_statistics

MODES = [
    *(NormalizationMode.MEAN_STD, NormalizationMode.MIN_MAX),
    *(NormalizationMode.QUANTILES, NormalizationMode.QUANTILE10),
]
KINDS = ("mean", "std", "min", "max", "q01", "q10", "q90", "q99")


@pytest.fixture(scope="module")
def still_root(tmp_path_factory):
    return write_kind("motionless_joints", tmp_path_factory.mktemp("still"))


def statistics(values):
    values = np.asarray(values, float)
    quantiles = {f"q{int(100 * q):02d}": np.quantile(values, q, axis=0) for q in (0.01, 0.1, 0.5, 0.9, 0.99)}
    ends = {"mean": values.mean(0), "std": values.std(0), "min": values.min(0), "max": values.max(0)}
    return {kind: array.astype(np.float32) for kind, array in (ends | quantiles).items()} | {"count": np.array([9])}


def feature(names):
    return {"dtype": "float32", "shape": (len(names),), "names": list(names)}


@pytest.mark.parametrize("mode", MODES)
def test_an_arm_beside_its_recorded_pose_is_near_and_moves_by_degrees(still_root, tmp_path, mode):
    stats = keep_statistics(tmp_path, open_dataset(still_root).meta)
    features = {"action": PolicyFeature(FeatureType.ACTION, (6,))}
    options = {"features": features, "norm_map": {FeatureType.ACTION: mode}, "stats": stats}
    there = torch.tensor(stats["action"]["mean"])
    pose = there.float() + torch.tensor([0, 0, 0, 0, STEP, STEP])
    normalised = NormalizerProcessorStep(**options)._normalize_action(pose, inverse=False)
    assert normalised[4:].abs().max() < 0.2
    noise = torch.zeros(6) + 0.05  # of a policy
    moved = UnnormalizerProcessorStep(**options)._normalize_action(noise, inverse=True)
    assert (moved[4:] - there[4:]).abs().max() < 0.2


def test_the_run_says_which_joints_and_keeps_the_scale(still_root, tmp_path, capsys):
    meta = open_dataset(still_root).meta
    first = keep_statistics(tmp_path, meta)
    (line,) = capsys.readouterr().out.splitlines()
    for place in ("wrist_roll.pos, gripper.pos of observation.state", "wrist_roll.pos, gripper.pos of action"):
        assert place in line
    assert first["action"]["std"][4:].tolist() == [1, 1]
    assert json.loads((tmp_path / FILE).read_text())["stats"]["action"]["std"][4:] == [1, 1]
    assert keep_statistics(tmp_path, meta)["action"]["std"].tolist() == first["action"]["std"].tolist()
    assert capsys.readouterr().out == ""


def test_numbers_that_move_keep_every_bit(still_root, dataset):
    meta = open_dataset(still_root).meta
    scaled = with_scales(meta.stats, meta.features)
    for kind in KINDS:
        assert scaled["action"][kind][:4].tobytes() == np.asarray(meta.stats["action"][kind])[:4].tobytes()
    scaled = with_scales(dataset.meta.stats, dataset.meta.features)
    for key, kinds in dataset.meta.stats.items():
        for kind, values in kinds.items():
            assert scaled[key][kind] is values
    assert describe_motionless(dataset.meta.stats, dataset.meta.features) is None


@pytest.mark.parametrize(
    ("names", "values", "still", "scale"),
    [
        (NAMES[:2], [[10, 50], [40, 50.08]], [NAMES[1]], 1.0),  # degrees; one step of an encoder
        (NAMES[:2], [[0.1, 0.5], [0.7, 0.5]], [NAMES[1]], 0.003),  # radians: a share of the others
        (("x", "y"), [[0.1, 3e-6], [0.3, 3e-6]], ["y"], 0.001),
        (("x", "y"), [[0.1, 0.001], [0.3, 0.003]], [], None),  # moves, if little
        (("x", "y"), [[0, 0], [0, 0]], ["x", "y"], 0.01),
        (("x", "y"), [[1000, 0], [1000, 0]], ["x", "y"], 10),
    ],
)
def test_the_scale_follows_the_units(names, values, still, scale):
    stats, features = {"observation.state": statistics(values)}, {"observation.state": feature(names)}
    assert motionless(stats, features).get("observation.state", []) == still
    scaled = with_scales(stats, features)["observation.state"]
    for i, name in enumerate(names):
        if name in still:
            assert scaled["std"][i] == pytest.approx(scale)
            for low, high in (("min", "max"), ("q01", "q99"), ("q10", "q90")):
                assert scaled[high][i] - scaled[low][i] == pytest.approx(2 * scale, rel=1e-4)
        else:
            assert scaled["std"][i] == stats["observation.state"]["std"][i]


def test_a_camera_of_one_colour_has_a_scale():
    image = {"dtype": "video", "shape": (8, 8, 3), "names": ["height", "width", "channels"]}
    kinds = {kind: np.full((3, 1, 1), value) for kind, value in zip(KINDS[:4], (0.2, 0.0, 0.2, 0.2), strict=True)}
    scaled = with_scales({"observation.images.front": kinds}, {"observation.images.front": image})
    assert scaled["observation.images.front"]["std"].tolist() == [[[0.05]]] * 3
    assert scaled["observation.images.front"]["min"].tolist() == [[[0.2]]] * 3
