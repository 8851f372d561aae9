"""Readings that cannot be true: they move nothing, and neither policy nor recording sees them."""

import numpy as np
import pytest
from safety_arm import REST, TICK, Arm, make_limits
from test_control_loop import FakeArm

from robot_io.safety import Reaction
from tinyvla.errors import UserError

STILL = np.array([20.0, -50, 50, 50, 60, 40])  # where the arm is held in these tests
PUSHED = STILL - np.array([40.0, 0, 0, 0, 0, 0])
WRONG = {
    "wrapped": STILL + 360,
    "wrapped back": STILL - np.array([0, 360, 0, 0, 0, 0]),
    "of another servo": STILL[[0, 1, 2, 4, 4, 5]] - np.array([0, 0, 0, 100.0, 0, 0]),
    "all turned round": STILL[[1, 2, 3, 4, 0, 5]],
    "huge": np.where(np.arange(6) == 2, 1e308, STILL),
    "not finite": np.where(np.arange(6) == 2, np.inf, STILL),
}


@pytest.mark.parametrize("ticks", [1, 4, 12, 40, 300])
@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_reading_moves_nothing(kind, ticks):
    arm = Arm(start=STILL)
    arm.run(STILL, 10)
    for _ in range(ticks):
        assert arm.step(STILL, arm.state(position=WRONG[kind])).reaction in (Reaction.FOLLOW, Reaction.HOLD)
    assert min(ticks, 14) <= arm.causes()["impossible_reading"]["ticks"] <= ticks
    arm.run(STILL, 60)
    assert np.ptp(arm.poses, axis=0).max() == 0
    assert arm.run(STILL + 3, 1).reaction == Reaction.FOLLOW


def test_a_wrong_reading_in_motion_only_holds_the_arm():
    arm = Arm(start=STILL)
    for tick in range(90):
        wrong = 30 <= tick < 60
        arm.step(STILL - tick * 0.5 * np.eye(6)[0], arm.state(position=arm.poses[-1] + 360) if wrong else "as sent")
    swept = np.array(arm.poses)
    assert STILL[0] - 45 < swept[:, 0].min()
    assert np.ptp(swept[:, 1:], axis=0).max() == 0
    assert np.ptp(swept[55:60, 0]) == 0  # the watchdog holds it
    assert {"impossible_reading", "no_reading"} <= set(arm.causes())


def test_an_arm_that_was_displaced_is_believed_in_the_end_and_gives_way_if_it_pushes():
    arm = Arm(start=STILL)
    arm.run(STILL, 10)
    for _ in range(14):
        arm.step(STILL, arm.state(position=PUSHED, load=0.95))
    assert arm.causes().keys() == {"impossible_reading", "no_reading"}
    assert np.array_equal(arm.poses[-1], STILL)
    for _ in range(60):
        sent = arm.step(STILL, arm.state(position=PUSHED, load=[0.95 if arm.poses[-1][0] > -15 else 0.1] + [0.1] * 5))
    assert sent.reaction == Reaction.FOLLOW or sent.torque == 0.5
    assert {"displaced", "load"} <= set(arm.causes())
    assert min(pose[0] for pose in arm.poses) == PUSHED[0]  # where it really is


def test_a_displaced_arm_that_does_not_push_is_held_and_goes_on_once_it_is_back():
    arm = Arm(start=STILL)
    arm.run(STILL, 10)
    for _ in range(90):
        sent = arm.step(STILL + 5, arm.state(position=PUSHED))
    assert sent.reaction == Reaction.HOLD
    assert arm.causes()["displaced"]["ticks"] > 60
    assert np.abs(arm.poses[-1] - STILL).max() <= 5
    arm.run(STILL + 5, 60)
    assert np.array_equal(arm.poses[-1], STILL + 5)


def test_a_joint_that_yields_does_not_follow_a_wrong_reading():
    arm = Arm(start=STILL)
    arm.run(STILL, 5)
    for _ in range(20):
        sent = arm.step(STILL, arm.state(load=0.95))
    assert sent.reaction == Reaction.GIVE_WAY
    for _ in range(60):
        arm.step(STILL, arm.state(position=PUSHED, load=0.1))
    assert np.ptp(arm.poses, axis=0).max() == 0


def test_fast_motion_and_gaps_between_readings_are_possible():
    arm = Arm(start=STILL)
    pushed = STILL.copy()
    for _ in range(6):  # by hand, at 240 degrees/s
        pushed = pushed - np.array([8.0, 0, 0, 0, 0, 0])
        arm.step(STILL, arm.state(position=pushed))
    arm.run(STILL, 1, state=None)
    arm.step(STILL, arm.state(position=STILL))  # it has sprung back
    arm.run(STILL - [50, 0, 0, 0, 0, 0], 8, state=None)
    arm.run(STILL - [50, 0, 0, 0, 0, 0], 60)
    assert "impossible_reading" not in arm.causes()


def test_an_arm_does_not_start_where_it_cannot_be():
    with pytest.raises(UserError, match="elbow_flex reads 410, where it cannot be; switch the arm's power off and on"):
        Arm(start=STILL + np.array([0, 0, 360, 0, 0, 0]))


def wrong_at(arm, reads, wrong):
    """Have a fake arm give wrong positions at some of its readings."""
    get_observation = arm.get_observation

    def observation():
        observation = get_observation()
        return {key: value + wrong for key, value in observation.items()} if arm.reads in reads else observation

    arm.get_observation = observation


@pytest.mark.parametrize("wrong", [360.0, -70.0, 1e308])
def test_neither_policy_nor_recording_sees_an_impossible_reading(wrong):
    arm, observed, recorded = FakeArm(), [], []
    wrong_at(arm, {6, *range(12, 60)}, wrong)

    def policy(observation):
        observed.append(list(observation.values()))
        return REST

    arm.loop(policy, observer=lambda due, observation, command, safe: recorded.append(observation)).run(2.0)
    assert np.array(arm.sent).tolist() == [REST.tolist()] * len(arm.sent)
    believed = [list(observation.values()) for observation in recorded if observation is not None]
    assert [tick for tick, observation in enumerate(recorded) if observation is None] == [3, *range(9, 57)]
    assert believed == observed == [REST.tolist()] * 11


@pytest.mark.parametrize("wrong", [360.0, 40.0])
def test_a_wrong_first_reading_is_no_start(wrong):
    arm = FakeArm()
    wrong_at(arm, {1}, wrong)
    arm.loop(lambda observation: REST).run(0.3)
    assert np.array(arm.sent).tolist() == [REST.tolist()] * len(arm.sent)


def test_positions_that_go_on_jumping_are_no_start():
    arm = FakeArm()
    wrong_at(arm, {1, 3, 5, 7}, 40.0)
    with pytest.raises(UserError, match="positions jump from reading to reading, so it was not moved"):
        arm.loop(lambda observation: REST).run(0.3)
    assert arm.sent == []


def test_the_rule_follows_the_joints_and_the_lag():
    fast = {name: {"speed": 400, "acceleration": 4000, "jerk": 1e5} for name in make_limits().joints}
    cfg = {name: {"min": -90, "max": 100, **limits} for name, limits in fast.items()}
    arm = Arm(make_limits(joints=cfg, servo={"lag": 60}), start=STILL)
    arm.now += TICK
    assert arm.layer.is_possible(STILL + 25, arm.now)
    assert not arm.layer.is_possible(STILL + 50, arm.now)
    assert not Arm(start=STILL).layer.is_possible(STILL + 25, arm.now)
