"""Odd recordings through train.py: it works right, or one clear line, exit code 2 and nothing left behind."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny import SETTINGS

from benchmarks.odd_recordings import JOINTS, KINDS, NAMES, pose, write_kind
from policies import load_checkpoint
from policies.checkpoints import feature_names
from policies.data import DatasetConfig, open_dataset, open_metadata
from policies.data.batches import TrainingData
from policies.data.dataset_check import check_dataset
from policies.data.dataset_files import name_image_axes
from policies.data.inspection import Weight, check_recording, inspect_recording
from policies.data.recording import read_recording
from policies.data.units import convert_to_degrees, in_degrees
from tinyvla.errors import UserError

RUN = [
    *("preset=cpu", "trainer.steps=4", "trainer.batch_size=4", "trainer.num_threads=1", "trainer.bf16=false"),
    *("trainer.validate_every=0", "eval.episodes=0", "logger=none"),
]
POLICY = {name: [f"policy={name}", *settings] for name, settings in SETTINGS.items()}
POLICY["tinyvla"] += ["backbone.image_size=32"]
PRINTED = re.compile(r"^(warning: |error: |motionless )", re.MULTILINE)


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("odd")


@pytest.fixture
def root(request, folder):
    return folder / request.param if (folder / request.param).exists() else write_kind(request.param, folder)


def lines_of(text):
    return [line for line in text.splitlines() if PRINTED.match(line)]


@pytest.mark.parametrize(("root", "kind"), [(name, kind) for name, kind in KINDS.items()], indirect=["root"], ids=KINDS)
def test_every_kind_is_recognised_without_training(root, kind):
    """A refusal here comes before a run's folder is made."""
    if kind.trains is None or "instructions are one" in str(kind.says) or "motionless" in str(kind.says):
        pytest.skip("shows when the policy is made")
    line, findings = refusal(root)
    if not kind.trains:
        assert line is not None
        assert re.search(kind.says, line)
        assert "\n" not in line
        return
    assert line is None
    assert (not findings) == (kind.says is None)
    assert kind.says is None or any(re.search(kind.says, str(finding)) for finding in findings)


def refusal(root):
    """Line with which a recording is refused, None if it is not, and the warnings about it."""
    try:
        open_metadata(None, str(root))
        return None, check_dataset(DatasetConfig(root=str(root)), [root])
    except UserError as error:
        return str(error), []


def train(command, root, run_dir, policy, *settings):
    return command("train", *POLICY[policy], *RUN, f"dataset.root={root}", f"run_dir={run_dir}", *settings)


def check_outcome(command, root, run_dir, policy, kind):
    code, out, err = train(command, root, run_dir, policy, *kind.settings)
    lines = lines_of(out + err)
    assert "Traceback" not in out + err
    if kind.trains is None:
        assert code in (0, 2)
    elif kind.trains:
        assert (code, err.count("error:")) == (0, 0), err
        load_checkpoint(run_dir, "cpu")
    else:
        assert code == 2
        assert len(lines_of(err)) == len(err.splitlines()) == 1, err
        assert not run_dir.exists()
    if kind.trains is not None and kind.says is None:
        assert lines == [line for line in lines if "reads no instructions" in line]
    elif kind.says and not ("instructions are one" in kind.says and policy in ("act", "diffusion", "vqbet")):
        assert any(re.search(kind.says, line) for line in lines), lines


FAST = ["plain", "motionless_joints", "image_names_short", "other_keys", "nan_in_state", "killed_while_recording"]


@pytest.mark.parametrize("root", FAST, indirect=True, ids=FAST)
def test_the_essential_kinds_through_training(root, command, tmp_path):
    check_outcome(command, root, tmp_path / "run", "tinyvla", KINDS[root.name])


@pytest.mark.slow
@pytest.mark.parametrize("policy", POLICY)
@pytest.mark.parametrize("root", KINDS, indirect=True, ids=KINDS)
def test_every_kind_through_training(root, policy, command, tmp_path):
    check_outcome(command, root, tmp_path / "run", policy, KINDS[root.name])


@pytest.mark.parametrize(
    ("shape", "names", "size"),
    [
        ((48, 64, 3), None, (48, 64, 3)),
        ((48, 64, 3), ["h", "w", "c"], (48, 64, 3)),
        ((48, 64, 3), ["width", "height", "channel"], (48, 64, 3)),
        ((3, 48, 64), ["channels", "height", "width"], (48, 64, 3)),
        ((3, 48, 64), None, (48, 64, 3)),
        ((48, 64, 1), None, (48, 64, 1)),
        ((3, 3, 3), None, (3, 3, 3)),
    ],
)
def test_axes_of_images_have_lerobots_names(shape, names, size):
    features = {"observation.images.a": {"dtype": "image", "shape": shape, "names": names}}
    name_image_axes(features)
    assert features["observation.images.a"]["shape"] == size
    assert features["observation.images.a"]["names"] == ["height", "width", "channels"]


def test_a_videos_own_size_counts():
    info = {"video.height": 48, "video.width": 64}
    features = {"observation.images.a": {"dtype": "video", "shape": (64, 48, 3), "names": None, "info": info}}
    name_image_axes(features)
    assert features["observation.images.a"]["shape"] == (48, 64, 3)


def write_calibration(folder: Path) -> Path:
    import json

    ranges = dict(
        zip(JOINTS, [(850, 3250), (900, 3113), (950, 3128), (800, 3150), (0, 4095), (1975, 3451)], strict=True)
    )
    file = folder / "my_arm.json"
    entries = {joint: {"range_min": low, "range_max": high, "drive_mode": 0} for joint, (low, high) in ranges.items()}
    file.write_text(json.dumps(entries))
    return file


@pytest.mark.parametrize("root", ["minus_100_to_100_of_an_encoder"], indirect=True)
def test_a_calibration_converts_values_and_statistics(root, tmp_path):
    dataset, calibration = open_dataset(root), write_calibration(tmp_path)
    before, stats = dataset.meta.stats["action"], dataset.meta.stats
    dataset.meta.stats = convert_to_degrees(dataset.meta.features, stats, calibration)
    config = type("Config", (), {"image_features": {}, "input_features": ["observation.state"]})()
    config.output_features, config.action_delta_indices, config.observation_delta_indices = ["action"], None, None
    data = TrainingData(dataset, config, {})
    for key in ("observation.state", "action"):
        values, kinds = data.columns[key].numpy(), dataset.meta.stats[key]
        np.testing.assert_allclose(values.mean(0), kinds["mean"], rtol=1e-4)
        np.testing.assert_allclose(values.std(0), kinds["std"], rtol=1e-4)
        np.testing.assert_allclose((values.min(0), values.max(0)), (kinds["min"], kinds["max"]), rtol=1e-4)
    assert dataset.meta.stats["action"]["max"][4] == pytest.approx(1.8 * before["max"][4], rel=1e-5)
    assert dataset.meta.stats["action"]["max"][5] == before["max"][5]


@pytest.mark.parametrize("root", ["minus_100_to_100"], indirect=True)
def test_recordings_in_hundreds_train_with_a_calibration(root, command, tmp_path):
    calibration = write_calibration(tmp_path)
    code, out, err = train(command, root, tmp_path / "run", "tinyvla", f"dataset.calibration={calibration}")
    assert (code, lines_of(out + err)) == (0, []), err
    _, _, postprocessor = load_checkpoint(tmp_path / "run", "cpu")
    (step,) = [step for step in postprocessor.steps if getattr(step, "stats", None)]
    assert step.stats["action"]["max"][4] == pytest.approx(1.8 * 98, rel=0.02)
    assert feature_names(tmp_path / "run")["action"] == NAMES


@pytest.mark.parametrize("root", ["plain"], indirect=True)
def test_a_calibration_of_degrees_is_refused(root, command, tmp_path):
    code, _, err = train(
        command, root, tmp_path / "run", "tinyvla", f"dataset.calibration={write_calibration(tmp_path)}"
    )
    assert code == 2
    assert re.search(r"error: dataset.calibration converts -100 to 100 and wrist_roll.pos of .* reaches 1\d\d", err)
    assert not (tmp_path / "run").exists()


def test_values_without_factors_are_the_same_object():
    values = np.ones(3)
    assert in_degrees(values, {"dtype": "float32"}) is values


@pytest.mark.parametrize("root", ["nan_in_state"], indirect=True)
def test_the_rest_of_a_recording_is_right(root):
    recording = read_recording(root)
    assert check_recording(recording.only(recording.numbers != 1)) == []


@pytest.mark.parametrize("root", ["plain"], indirect=True)
def test_places_count_in_the_numbers_of_the_dataset(root):
    recording = read_recording(root)
    later = recording.only(recording.numbers > 0)
    assert later.place(0) == (1, 0)
    assert later.place(13) == (2, 1)
    values = later.columns["action"].copy()
    values[14, 2] = np.inf
    findings = inspect_recording(replace(later, columns={**later.columns, "action": values}))
    assert [finding.weight for finding in findings if finding.kind == "not finite"] == [Weight.ERROR]
    assert "elbow_flex.pos of action is inf in episode 2, frame 2; leave it out: dataset.episodes=[1]" in map(
        str, findings
    )


def test_the_plain_pose_is_the_one_that_people_record():
    assert abs(pose(0, 0, 12)[4]) > 100  # else the plain recording fits both units
