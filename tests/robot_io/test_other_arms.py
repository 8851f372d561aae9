"""Other arms than the SO-101 follower: leaders, a Koch, a pair; and grippers that open further than the model's."""

import json
import shutil
import time

import pytest

from configs.composing import as_dict, load_config
from robot_io.arms import check_safety_model, is_leader, make_arm, make_leader
from robot_io.connection import connect_arm, disconnect_arm
from robot_io.gripper import gripper_degrees
from robot_io.safety import SafetyLimits
from robot_io.setup.kinds import arm_kind
from tinyvla.errors import UserError

pytestmark = pytest.mark.usefixtures("patient")


def section(robot, *settings):
    return as_dict(load_config("robot_setup", [f"robot={robot}", "robot.port=/dev/nowhere", *settings]).robot)


@pytest.mark.parametrize(
    ("robot", "kind", "bus"),
    [
        ("so101_leader", "SOLeader", "FeetechBus"),
        ("so100_leader", "SOLeader", "FeetechBus"),
        ("koch_leader", "KochLeader", "DynamixelMotorsBus"),
    ],
)
def test_leaders_by_name(robot, kind, bus, tmp_path):
    settings = section(robot, f"robot.calibration_dir={tmp_path}")
    assert is_leader(settings["type"])
    leader = make_leader(settings)
    assert (type(leader).__name__, type(leader.bus).__name__) == (kind, bus)
    assert arm_kind(leader.name).travel


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"type": "so101_leadre"}, "LeRobot knows no teleoperator 'so101_leadre'; did you mean so101_leader"),
        ({"port": None}, "robot.port is not given"),
        ({"use_degree": True}, "no setting 'use_degree'; did you mean use_degrees"),
    ],
)
def test_mistakes_in_a_leaders_settings(change, reason):
    with pytest.raises(UserError, match=reason):
        make_leader(section("so101_leader") | change)


def test_followers_are_no_leaders():
    assert not any(map(is_leader, ("so101_follower", "so100_follower", "koch_follower")))


def test_a_pair_of_arms_is_refused():
    settings = {
        "type": "bi_so_follower",
        "id": "pair",
        "left_arm_config": {"port": "a"},
        "right_arm_config": {"port": "b"},
    }
    with pytest.raises(UserError, match=r"has two serial buses.* drive each arm by itself"):
        make_arm(settings)


def test_the_safety_layer_of_a_koch(tmp_path):
    cfg = load_config("deploy", ["checkpoint=x", "robot=koch", "safety=koch"])
    limits = SafetyLimits.decode(as_dict(cfg.safety))
    arm = make_arm(section("koch", f"robot.calibration_dir={tmp_path}"))
    assert list(limits.joints) == list(arm.bus.motors)
    assert limits.model is None
    check_safety_model(cfg.robot.type, limits.model)
    for joint, travel in arm_kind("koch_follower").travel.items():
        if joint != "gripper":  # at 0 to 100
            assert limits.joints[joint].max - limits.joints[joint].min < travel.most
    with pytest.raises(UserError, match=r"safety.model=so101 is not the geometry of a koch_follower; add safety=koch"):
        check_safety_model(cfg.robot.type, "so101")


def test_a_damaged_calibration_is_one_line(tmp_path):
    """LeRobot loads it while the arm is built, and has a traceback for it."""
    for content in ("", '{"gripper": 6}', '{"gripper": {"id": 6, "homing_offset": [0]}}'):
        (tmp_path / "my_arm.json").write_text(content)
        for robot, make in (("so101", make_arm), ("so101_leader", make_leader)):
            with pytest.raises(UserError, match=r"my_arm.json"):
                make(section(robot, f"robot.calibration_dir={tmp_path}", "robot.id=my_arm"))


def test_an_opening_of_the_gripper_in_degrees(sound_twin, tmp_path):
    """With robot.gripper_degrees=60 the goal 100 opens the twin's gripper by 60 degrees, and it reads as 100."""
    shutil.copy(sound_twin.calibration_dir / "twin.json", tmp_path / "twin.json")
    settings = section("so101", f"robot.calibration_dir={tmp_path}", "robot.id=twin", "robot.gripper_degrees=60")
    arm = make_arm(settings | {"port": sound_twin.port})
    assert gripper_degrees(arm) == pytest.approx(110, abs=1)
    connect_arm(arm)
    try:
        for goal, opening in ((100.0, 60.0), (50.0, 30.0)):
            deadline = time.monotonic() + 20
            while time.monotonic() < deadline:
                arm.send_action({"gripper.pos": goal})
                if abs(sound_twin.state()["joints"]["gripper"]["angle"] + 10 - opening) < 1.5:
                    break
                time.sleep(0.05)
            assert sound_twin.state()["joints"]["gripper"]["angle"] + 10 == pytest.approx(opening, abs=1.5)
            assert arm.get_observation()["gripper.pos"] == pytest.approx(goal, abs=3)
        sound_twin.send("hand gripper=95")
        assert arm.get_observation()["gripper.pos"] <= 100
    finally:
        sound_twin.send("hand release")
        assert disconnect_arm(arm) == []


def test_an_opening_wider_than_the_gripper_is_refused(tmp_path):
    entries = {
        joint: {"id": number, "drive_mode": 0, "homing_offset": 0, "range_min": 1000, "range_max": 2000}
        for number, joint in enumerate(("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll"), 1)
    }
    entries["gripper"] = {**entries["wrist_roll"], "id": 6}
    (tmp_path / "a.json").write_text(json.dumps(entries))
    with pytest.raises(UserError, match=r"robot.gripper_degrees=110 is more than this gripper opens, 88 degrees"):
        make_arm(section("so101", f"robot.calibration_dir={tmp_path}", "robot.id=a", "robot.gripper_degrees=110"))
