"""Walls, the table and the arm itself; and random attacks, audited by code that shares nothing with the layer."""

import dataclasses
import logging

import numpy as np
import pytest
from safety_arm import REST, Arm, make_limits

from benchmarks.real_arm import safety_cost as attacks
from robot_io.safety.audit import Auditor
from robot_io.safety.geometry import ArmGeometry
from tinyvla.errors import UserError

LIMITS = make_limits("so101")
DOWN = np.array([0, 30, 30, 60, 0, 20.0])  # through the table
FOLDED = np.array([0, -99, 96, 94, 0, 20.0])  # hand into the base


@pytest.fixture(scope="module")
def auditor():
    return Auditor(LIMITS)


@pytest.fixture
def safety_cost():
    logging.disable(logging.WARNING)
    yield attacks
    logging.disable(logging.NOTSET)


def test_the_auditor_sees_what_breaks_limits(auditor):
    still = np.tile(REST, (5, 1))
    assert auditor.broken(still) == []
    assert "tick 0: world and gripper" in auditor.collisions(DOWN[None])[0]
    assert any("upper_arm" in what or "shoulder" in what or "base" in what for what in auditor.collisions(FOLDED[None]))
    assert auditor.motion(still * np.nan) == ["a pose is not finite"]
    jump = np.concatenate([still, still + np.array([0, 10, 0, 0, 0, 0])])
    assert [what.split(":")[0] for what in auditor.motion(jump)] == ["speed", "acceleration", "jerk"]
    assert auditor.motion(still + 200)[0].startswith("position")


def test_boxes_are_never_clear_where_meshes_are_not(auditor):
    """The layer's boxes err on the safe side, and not by much."""
    rng = np.random.default_rng(1)
    geometry = ArmGeometry(LIMITS, 1)
    low, high = np.array([(joint.min, joint.max) for joint in LIMITS.joints.values()]).T
    clear = np.zeros((2, 2), int)
    for pose in rng.uniform(low, high, (1500, 6)):
        boxes, meshes = geometry.first_conflict(pose[None]) is None, not auditor.collisions(pose[None])
        clear[int(boxes), int(meshes)] += 1
    assert clear[1, 0] == 0
    assert clear[0, 1] < 0.04 * clear.sum()


@pytest.mark.parametrize(("goal", "cause"), [(DOWN, "table"), (FOLDED, "self_collision")])
def test_the_arm_stops_before_it_hits(auditor, goal, cause):
    arm = Arm(LIMITS)
    arm.run(goal, 120)
    assert auditor.broken(np.array(arm.poses), between=3) == []
    assert arm.causes()[cause]["ticks"] > 10
    assert arm.moved() < 0.05  # it comes to rest there
    arm.run(REST, 90)
    assert np.allclose(arm.poses[-1], REST)


def test_it_comes_close_to_the_table_and_slides_along_it(auditor):
    arm = Arm(LIMITS)
    arm.run(DOWN, 120)
    geometry = ArmGeometry(make_limits("so101", workspace={"clearance": LIMITS.workspace.clearance + 0.003}), 1)
    assert geometry.first_conflict(arm.poses[-1][None]) == 0  # less than 3 mm are left
    arm.run(DOWN + np.array([40, 0, 0, 0, 0, 60]), 60)
    assert arm.poses[-1][0] == pytest.approx(40, abs=1)
    assert arm.poses[-1][5] == pytest.approx(80, abs=1)
    assert auditor.broken(np.array(arm.poses)) == []


def test_a_start_on_the_table_leads_up_and_not_down_again(auditor):
    start = np.array([0, 18, 10, 60, 0, 20.0])
    arm = Arm(LIMITS, start)
    assert arm.outside
    depth = deepest(auditor, start)
    assert depth > 0
    arm.run(DOWN, 40)
    assert max(deepest(auditor, pose) for pose in arm.poses) <= depth + 1e-5
    arm.run(REST, 90)
    assert np.allclose(arm.poses[-1], REST)
    returned = len(arm.poses)
    arm.run(DOWN, 120)
    assert auditor.collisions(np.array(arm.poses[returned:])) == []


def deepest(auditor, pose):
    """Greatest depth of a link inside the table at a pose, in metres."""
    auditor.collisions(pose[None])
    return max((-contact.dist for contact in auditor._data.contact), default=0.0)


def test_joints_of_another_arm_are_refused():
    cfg = make_limits()
    joints = {"waist" if name == "shoulder_pan" else name: joint for name, joint in cfg.joints.items()}
    with pytest.raises(UserError, match="list shoulder_pan, shoulder_lift"):
        ArmGeometry(dataclasses.replace(LIMITS, joints=joints), 1)


def test_random_attacks_break_nothing(safety_cost):
    result = safety_cost.attack(list(safety_cost.KINDS), sequences=120, ticks=20, seed=10_000, between=1)
    assert result["first_violations"] == []
    assert result["poses_audited"] >= 120 * 20
    assert {"table", "self_collision", "workspace", "person", "emergency_stop"} <= set(result["ticks_by_cause"])


@pytest.mark.slow
def test_many_random_attacks_break_nothing(safety_cost):
    result = safety_cost.attack(list(safety_cost.KINDS), sequences=1000, ticks=60, seed=20_000, between=2)
    assert result["first_violations"] == []
