"""Degrees, or -100 to 100: told apart by an encoder's steps, by ends and ranges; converted by a calibration."""

import json

import numpy as np
import pytest

from benchmarks import odd_recordings as odd
from tinyvla.arms.units import Units, degrees_per_unit, has_range_ends, units_of
from tinyvla.errors import UserError

RNG = np.random.default_rng(0)


def motion(pose, episodes=3, steps=40):
    return np.array([pose(episode, step, steps) for episode in range(episodes) for step in range(steps)])


@pytest.mark.parametrize(
    ("pose", "units"),
    [
        (odd.pose, Units.DEGREES),  # beyond 100
        (odd.encoder_degrees, Units.DEGREES),
        (odd.encoder_hundreds, Units.HUNDREDS),
        (odd.hundreds, Units.HUNDREDS),
        (odd.short_roll, Units.EITHER),
        (odd.radians, Units.RADIANS),
    ],
)
def test_units_of_a_motion(pose, units):
    assert units_of("so101_follower", odd.NAMES, motion(pose)) == units
    assert units_of(None, odd.NAMES, motion(pose)) == units
    assert units_of("sawyer", odd.NAMES, motion(pose)) == Units.OTHER
    assert units_of("so101_follower", ["x"] * 6, motion(pose)) == Units.OTHER


def test_readings_of_any_calibration_are_told_apart():
    for _ in range(200):
        low = RNG.integers(100, 1200, 6)
        ranges = RNG.integers(1400, 2800, 6)
        ranges[4] = 4095 - low[4] - RNG.integers(0, 20)
        raw = low + ranges / 2 + RNG.normal(0, 150, (300, 6)).cumsum(0) / 12
        raw = np.clip(np.round(raw), low, low + ranges)
        hundreds = ((raw - low) / ranges * 200 - 100).astype(np.float32)
        degrees = ((raw - (low + ranges / 2)) * 360 / 4095).astype(np.float32)
        assert units_of("so_follower", odd.NAMES, hundreds) == Units.HUNDREDS
        assert units_of("so_follower", odd.NAMES, degrees) == Units.DEGREES


def test_an_arm_that_rests_on_its_stops_in_hundreds_has_two_ends():
    assert has_range_ends(np.array([-20, -100.0, 10]), np.array([20, 0, 100.0]))
    assert not has_range_ends(np.array([-20, -100.0, 10]), np.array([20, 0, 101.0]))
    assert not has_range_ends(np.array([-20, -99.5, 10]), np.array([20, 0, 96.0]))


def write_calibration(folder, **changes):
    entries = {
        joint: {"id": i, "drive_mode": 0, "range_min": 900, "range_max": 3000} for i, joint in enumerate(odd.JOINTS)
    }
    entries["wrist_roll"] |= {"range_min": 0, "range_max": 4095}
    file = folder / "calibration.json"
    file.write_text(json.dumps({key: entry for key, entry in (entries | changes).items() if entry is not None}))
    return file


def test_a_calibration_makes_degrees(tmp_path):
    factors = degrees_per_unit(write_calibration(tmp_path), odd.NAMES)
    assert 50 * factors[4] == pytest.approx(90)  # of a whole turn; LeRobot's -100 to 100 is -180 to 180 degrees
    assert factors[0] * 100 == pytest.approx(1050 * 360 / 4095)
    assert factors[5] == 1


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"elbow_flex": None}, "no range_min below a range_max for elbow_flex"),
        ({"elbow_flex": {"range_min": 10, "range_max": 10}}, "for elbow_flex"),
        ({"elbow_flex": {"range_min": "10", "range_max": 100}}, "for elbow_flex"),
        ({"elbow_flex": 3}, "for elbow_flex"),
    ],
)
def test_a_calibration_without_a_joint_is_one_line(tmp_path, changes, what):
    with pytest.raises(UserError, match=what):
        degrees_per_unit(write_calibration(tmp_path, **changes), odd.NAMES)


def test_a_calibration_that_is_missing_is_one_line(tmp_path):
    with pytest.raises(UserError, match="there is no calibration"):
        degrees_per_unit(tmp_path / "none.json", odd.NAMES)
