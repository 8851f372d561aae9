"""Joint motion: transparent within its limits, without overshoot beyond them, and always recoverable."""

import numpy as np
import pytest

from robot_io.safety.limits import JointLimits
from robot_io.safety.motion import DONE, brake, braking_distance, ramp_from
from robot_io.safety.planner import Planner

JOINT = JointLimits(min=-100, max=100, speed=120, acceleration=900, jerk=15000)


def follow(commands, joint=JOINT, start=0.0, rate=30.0):
    """Positions of one joint for these commands, the start first."""
    planner, out = Planner([joint], rate), [0.0]
    planner.start([start])
    poses = [start]
    for command in commands:
        planner.aim(0, float(min(max(command, joint.min), joint.max)), out)
        planner.make(out)
        planner.keep()
        poses.append(planner.position[0])
    return np.array(poses)


def shares(poses, joint=JOINT, rate=30.0):
    """Greatest speed, acceleration and jerk as shares of their limits."""
    differences, values = np.concatenate([[poses[0]] * 3, poses]), []
    for most in (joint.speed, joint.acceleration, joint.jerk):
        differences = np.diff(differences) * rate
        values.append(np.abs(differences).max() / most)
    return np.array(values)


def test_braking_goes_as_far_as_foretold_within_its_limits():
    rng = np.random.default_rng(0)
    for _ in range(500):
        greatest = rng.uniform(0.3, 6)
        v, a = rng.uniform(-20, 20), rng.uniform(-greatest, greatest)
        foretold, went = braking_distance(v, a, greatest), 0.0
        while abs(v) > DONE or abs(a) > DONE:
            following = brake(v, a, greatest)
            assert abs(following) <= greatest
            assert abs(following - a) <= 1 + 1e-12
            a = following
            v += a
            went += v
        assert went == pytest.approx(foretold, abs=1e-6)


def test_a_ramp_changes_velocity_by_what_was_asked():
    for total in (-7.3, -0.2, 0.0, 0.9, 1.0, 3.0, 12.5):
        a, changed = ramp_from(total), 0.0
        while abs(a) > 0:
            changed += a
            a = np.sign(a) * max(abs(a) - 1, 0)
        assert changed == pytest.approx(total)


@pytest.mark.parametrize("distance", [0.1, 3, 30, 95, -60])
def test_a_jump_is_approached_without_passing_it(distance):
    poses = follow([distance] * 60)
    assert poses[-1] == distance
    assert np.abs(poses).max() <= abs(distance) + 0.2  # a step smaller than a tick's jerk is taken at once
    assert (np.diff(poses) * np.sign(distance) >= -0.2).all()
    assert (shares(poses) <= 1 + 1e-9).all()


def test_a_jump_takes_no_longer_than_the_limits_ask_for():
    poses = follow([90.0] * 60)
    arrival = np.flatnonzero(poses == 90)[0] / 30
    fastest = 90 / JOINT.speed + JOINT.speed / JOINT.acceleration + JOINT.acceleration / JOINT.jerk
    assert arrival <= fastest + 2 / 30


def test_commands_within_limits_pass_unchanged():
    commands = 30 * (1 - np.cos(0.09 * np.arange(300))) / 2
    assert (shares(np.concatenate([[0], commands])) < 1).all()
    assert np.array_equal(follow(commands)[1:], commands)


def test_a_steady_command_is_caught_up_with():
    commands = 20 + 2.0 * np.arange(30)
    assert np.array_equal(follow(commands)[-10:], commands[-10:])


def test_noise_is_not_taken_for_motion():
    noise = np.random.default_rng(0).normal(0, 2, 300)
    assert np.abs(follow(noise)).max() < 1.2 * np.abs(noise).max()


def test_a_ramp_into_a_limit_stops_at_it():
    poses = follow(4.0 * np.arange(1, 80))
    assert poses.max() == pytest.approx(100, abs=1e-5)
    assert poses.max() <= 100
    assert poses[-1] == pytest.approx(100, abs=1e-5)
    assert (shares(poses) <= 1 + 1e-9).all()


def test_a_joint_outside_its_limits_comes_in_and_does_not_go_out_again():
    commands = [-300.0] * 20 + [0.0] * 60 + [-300.0] * 100
    poses = follow(commands, start=-120.0)
    assert poses.min() == -120
    assert poses[80:].min() >= -100
    assert (shares(poses) <= 1 + 1e-9).all()


@pytest.mark.parametrize("rate", [10, 30, 100])
@pytest.mark.parametrize("jerk", [3000, 15000, 1e6])
def test_no_command_breaks_a_limit(rate, jerk):
    joint = JointLimits(-20, 25, 120, 900, jerk)
    rng = np.random.default_rng(rate)
    commands = np.repeat(rng.uniform(-60, 60, 300), rng.integers(1, 12, 300)) + rng.normal(0, 3)
    poses = follow(commands, joint, rate=rate)
    assert (shares(poses, joint, rate) <= 1 + 1e-9).all()
    assert poses.min() >= -20
    assert poses.max() <= 25
