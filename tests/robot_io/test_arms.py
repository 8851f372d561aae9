"""Arms by name, and what is wrong with one in one line: LeRobot's unmodified drivers on the twin's serial port."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest

from configs.composing import as_dict, load_config
from robot_io.arms import make_arm
from robot_io.connection import connect_arm, disconnect_arm
from robot_io.diagnosis import arm_errors, ping
from robot_io.feetech import FeetechServos
from robot_io.feetech.guard import let_go
from robot_io.recording.folder import image_sizes
from robot_io.setup.search import find_arms
from robot_io.twin import TwinSettings, start_twin
from tinyvla.arms.so101 import SO101
from tinyvla.errors import UserError

pytestmark = pytest.mark.usefixtures("patient")


def settings(*overrides, robot="so101"):
    return as_dict(load_config("simulate_arm", [f"robot={robot}", *overrides]).robot)


@pytest.fixture
def arm(sound_twin):
    """An SO-101 follower on the twin's port, not connected."""
    arm = make_arm(settings("robot.id=twin"), sound_twin)
    yield arm
    sound_twin.send("clear")
    disconnect_arm(arm)


def torques(twin):
    return [joint["torque"] for joint in twin.state()["joints"].values()]


@pytest.mark.parametrize(
    ("camera", "size"),
    [
        ("{type: opencv, index_or_path: 0}", (480, 640)),
        ("{type: opencv, index_or_path: 0, rotation: 90}", (640, 480)),
        ("{type: opencv, index_or_path: 0, width: 1280, height: 720}", (720, 1280)),
    ],
)
def test_a_webcam_has_the_size_that_every_one_has_unless_it_is_given(camera, size, tmp_path):
    words = ["robot.port=/dev/nowhere", f"robot.calibration_dir={tmp_path}", f"robot.cameras={{front: {camera}}}"]
    assert image_sizes(make_arm(settings(*words)), ["front"]) == {"front": size}


@pytest.mark.parametrize(
    ("robot", "kind", "bus"),
    [
        ("so101", "SOFollower", "FeetechBus"),
        ("so100", "SOFollower", "FeetechBus"),
        ("koch", "KochFollower", "DynamixelMotorsBus"),
    ],
)
def test_arms_by_name(robot, kind, bus, tmp_path):
    arm = make_arm(settings("robot.port=/dev/nowhere", f"robot.calibration_dir={tmp_path}", robot=robot))
    assert (type(arm).__name__, type(arm.bus).__name__) == (kind, bus)
    assert list(arm.action_features) == [f"{joint}.pos" for joint in SO101.joints]


def test_an_arm_with_lerobots_cameras(tmp_path):
    camera = "robot.cameras={front: {type: opencv, index_or_path: 0, width: 64, height: 48, fps: 30}}"
    arm = make_arm(settings("robot.port=/dev/nowhere", f"robot.calibration_dir={tmp_path}", camera))
    assert arm.observation_features["front"] == (48, 64, 3)


def test_a_robot_of_a_plugin(tmp_path):
    """Any class that has registered itself with LeRobot, with its own fields."""
    from dataclasses import dataclass

    from lerobot.robots import RobotConfig

    @RobotConfig.register_subclass("tests_own_arm")
    @dataclass
    class TestsOwnArmConfig(RobotConfig):
        wheels: int = 0

    with pytest.raises(UserError, match="tests_own_arm has no setting 'wheel'; did you mean wheels"):
        make_arm({"type": "tests_own_arm", "id": None, "wheel": 4})
    with pytest.raises(UserError, match="tests_own_arm cannot be built from these settings"):  # it has no robot class
        make_arm({"type": "tests_own_arm", "id": None, "wheels": 4})


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"type": "so101_folower"}, "knows no robot 'so101_folower'; did you mean so101_follower"),
        ({"port": None}, "robot.port is not given"),
        ({"use_degree": True}, "no setting 'use_degree'; did you mean use_degrees"),
        ({"max_relative_target": "far"}, "cannot be built from these settings"),
        ({"cameras": {"front": {"type": "opencv"}}}, "cannot be built from these settings"),
        (
            {"cameras": {"front": {"type": "webcam"}}},
            "type: unknown camera type 'webcam'; use one of opencv",
        ),
        ({"cameras": {"front": {"type": "twin", "width": 8, "height": 8, "fps": 9}}}, "belongs to a twin but none"),
    ],
)
def test_mistakes_in_the_settings(change, what):
    with pytest.raises(UserError, match=what):
        make_arm(settings("robot.port=/dev/nowhere") | change)


def test_lerobots_driver_connects_reads_and_drives(arm, sound_twin):
    connect_arm(arm)
    assert torques(sound_twin) == [1, 1, 1, 1, 1, 0.5]  # LeRobot protects the gripper
    before = arm.get_observation()
    assert before["shoulder_lift.pos"] == pytest.approx(-100, abs=1)
    sent = {"shoulder_pan.pos": 25.0, "shoulder_lift.pos": -60.0, "elbow_flex.pos": 60.0}
    sent |= {"wrist_flex.pos": 10.0, "wrist_roll.pos": -30.0, "gripper.pos": 50.0}
    arm.send_action(sent)
    wait_until(sound_twin, lambda state: abs(state["joints"]["wrist_roll"]["angle"] + 30) < 1)
    wait_until(sound_twin, lambda state: max(map(abs, state["qvel"])) < 0.01)
    assert arm.get_observation() == pytest.approx(sent, abs=1.5)
    truth = [sound_twin.state()["joints"][joint]["angle"] for joint in SO101.joints[:5]]
    assert truth == pytest.approx([sent[f"{joint}.pos"] for joint in SO101.joints[:5]], abs=1.5)
    load = arm.bus.sync_read("Present_Load", normalize=False)
    assert all(abs(value) <= 1000 for value in load.values())
    assert 20 <= arm.bus.read("Present_Temperature", "elbow_flex", normalize=False) <= 40
    assert disconnect_arm(arm) == []
    assert torques(sound_twin) == [0] * 6
    assert not arm.is_connected


def wait_until(twin, condition, steps=400):
    """Let the simulation go on until its state is so."""
    for _ in range(steps):
        state = twin.state()
        if condition(state):
            return
        until = state["time"] + 0.02
        while twin.state()["time"] < until:
            time.sleep(0.01)
    raise AssertionError(state)


def move(arm, ticks=20):
    for _ in range(ticks):
        arm.send_action(dict.fromkeys(arm.action_features, 10.0))
        arm.get_observation()


def refused(arm, what):
    with pytest.raises(UserError, match=what) as caught:
        connect_arm(arm)
    assert "\n" not in str(caught.value)
    assert not arm.bus.is_connected


def test_no_such_port(arm):
    arm.bus.port_handler.port_name = arm.config.port = "/dev/no-such-port"
    refused(arm, "there is no port /dev/no-such-port")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may open everything")
def test_no_permission(arm, tmp_path):
    port = tmp_path / "port"
    port.touch(0o000)
    arm.config.port = str(port)
    refused(arm, "no permission to use .*sudo usermod -aG dialout")


def test_no_permission_for_whoever_asks(arm, monkeypatch):
    monkeypatch.setattr("os.access", lambda *_: False)
    refused(arm, "no permission to use .*sudo usermod -aG dialout")


def test_a_servo_that_is_missing(arm, sound_twin):
    sound_twin.send("silent wrist_flex")
    refused(arm, r"wrist_flex \(id 4\) does not answer on .*check its cables")


def test_no_servo_at_all(arm, sound_twin):
    sound_twin.send("silent")
    refused(arm, "no servo answers on .*power supply")


def test_two_servos_with_one_id():
    with start_twin(TwinSettings(ids=(1, 2, 3, 3, 5, 6)), in_thread=True) as twin:
        refused(make_arm(settings("robot.id=twin"), twin), r"two servos answer as elbow_flex \(id 3\) while wrist_flex")
        assert [ping(twin.port, number) for number in (2, 3, 4)] == ["answers", "garbled", "silent"]


def test_an_arm_without_calibration(sound_twin, tmp_path):
    shutil.copy(sound_twin.calibration_dir / "twin.json", tmp_path / "green.json")
    arm = make_arm(settings(f"robot.port={sound_twin.port}", f"robot.calibration_dir={tmp_path}", "robot.id=blue"))
    refused(arm, "there is no calibration .*blue.json; set robot.id to this arm's out of green, or calibrate")


def test_the_calibration_of_another_arm(sound_twin, tmp_path):
    other = json.loads((sound_twin.calibration_dir / "twin.json").read_text())
    other["elbow_flex"]["homing_offset"] += 40
    (tmp_path / "blue.json").write_text(json.dumps(other))
    arm = make_arm(settings(f"robot.port={sound_twin.port}", f"robot.calibration_dir={tmp_path}", "robot.id=blue"))
    refused(arm, r"not calibrated as .*blue.json says \(elbow_flex\): it is another arm's")
    assert torques(sound_twin) == [0] * 6  # nothing was switched on


@pytest.mark.parametrize(
    ("fault", "what"),
    [
        ("unplug", "the port .* is gone; put the USB cable back"),
        ("silent shoulder_pan", "shoulder_pan does not answer"),
        ("drop 1", "a servo does not answer"),
    ],
)
def test_faults_while_it_moves(fault, what, arm, sound_twin, monkeypatch):
    monkeypatch.setattr("robot_io.connection._LET_GO_S", 0.3)
    connect_arm(arm)
    sound_twin.send(fault)
    with pytest.raises(UserError, match=what), arm_errors(arm):
        move(arm)
    problems = disconnect_arm(arm)  # all that can be reached is switched off, and nothing is raised
    (problem,) = problems  # one line for all servos
    silent = problem.partition(" did not confirm")[0].split(", ")
    assert silent == (["shoulder_pan"] if fault == "silent shoulder_pan" else list(SO101.joints))
    assert not arm.bus.is_connected
    if fault == "silent shoulder_pan":
        assert torques(sound_twin)[1:] == [0] * 5
    sound_twin.send("clear")
    connect_arm(arm)  # the cable is back, at the same path
    assert arm.get_observation()


def test_a_cable_that_is_put_back_in_time_is_used_to_let_go(arm, sound_twin, monkeypatch):
    monkeypatch.setattr("robot_io.connection._LET_GO_S", 60)
    connect_arm(arm)
    sound_twin.send("unplug for 0.3")
    assert disconnect_arm(arm) == []
    assert torques(sound_twin) == [0] * 6


@pytest.mark.parametrize(
    ("complaint", "what"),
    [
        ("Missing motor IDs:\n  - 4 (expected model: 777)", "packets get lost between .* and its servos"),
        ("Motors with incorrect model numbers:\n  - 4", "is of another model than"),
    ],
)
def test_a_lost_packet_is_not_another_model(complaint, what, arm):
    with pytest.raises(UserError, match=what), arm_errors(arm):
        raise RuntimeError(f"FeetechMotorsBus motor check failed on port 'x':\n{complaint}")


def test_a_servos_own_complaint_is_passed_on(arm, sound_twin):
    connect_arm(arm)
    sound_twin.send("overheat elbow_flex")
    wait_until(sound_twin, lambda state: state["joints"]["elbow_flex"]["error"] == 4)
    with pytest.raises(UserError, match="elbow_flex reports a fault: it is too hot"), arm_errors(arm):
        arm.bus.read("Present_Temperature", "elbow_flex", normalize=False)
    assert torques(sound_twin)[2] == 0
    assert disconnect_arm(arm) == []


def test_a_servo_that_still_reports_its_overload_is_let_go_all_the_same(arm, sound_twin):
    connect_arm(arm)
    servos = FeetechServos(arm.bus)
    sound_twin.send("error_byte elbow_flex 32")
    servos.set_torque(0.0)
    assert torques(sound_twin) == [0] * 6
    assert disconnect_arm(arm) == []


def test_an_overload_that_ends_with_the_torque_does_not_keep_an_arm_from_connecting(arm, sound_twin, monkeypatch):
    write = arm.bus.write

    def write_and_recover(register, motor, value, **options):
        write(register, motor, value, **options)
        if (register, motor, value) == ("Torque_Enable", "elbow_flex", 0):
            sound_twin.send("clear")  # its answer still had the bit

    monkeypatch.setattr(arm.bus, "write", write_and_recover)
    sound_twin.send("error_byte elbow_flex 32")
    connect_arm(arm)
    assert torques(sound_twin) == [1, 1, 1, 1, 1, 0.5]


def test_an_overload_that_stays_needs_the_arms_power_off_and_on(arm, sound_twin):
    sound_twin.send("error_byte elbow_flex 32")
    refused(arm, r"elbow_flex \(id 3\) reports an overload although .* switch the arm's power off and on")
    sound_twin.send("error_byte elbow_flex 4")
    refused(arm, r"elbow_flex \(id 3\) reports a fault; let it cool down")


def test_a_servo_with_anothers_id_is_named_and_known_to_be_limp(arm, sound_twin):
    connect_arm(arm)
    sound_twin.send("wrong_id shoulder_lift")
    with pytest.raises(UserError, match="shoulder_lift answers as id 3; give each servo its own id"), arm_errors(arm):
        move(arm)
    assert disconnect_arm(arm) == []
    assert torques(sound_twin) == [0] * 6


HOLD_LOCK = """
import fcntl, os, sys, time
fcntl.flock(os.open(sys.argv[1], os.O_RDWR | os.O_NOCTTY), fcntl.LOCK_EX)
print("locked", flush=True)
time.sleep(600)
"""


def test_a_second_program_is_refused_and_the_guard_is_not(arm, sound_twin):
    command = [sys.executable, "-c", HOLD_LOCK, sound_twin.port]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout.readline() == "locked\n"
            refused(arm, f"process {holder.pid} .*drives the arm at .*; end it first")
            (port,) = find_arms([sound_twin.port])
            assert "does another program use it?" in str(port)
            assert let_go(sound_twin.port, range(1, 7)) == []
        finally:
            holder.kill()  # as kill -9
    connect_arm(arm)
    other = make_arm(settings("robot.id=twin"), sound_twin)
    refused(other, "is given for two arms")
    assert disconnect_arm(arm) == []
    connect_arm(other)
    assert disconnect_arm(other) == []


def test_a_brown_out_leaves_the_servo_limp_and_calibrated(arm, sound_twin):
    connect_arm(arm)
    sound_twin.send("brown_out elbow_flex")
    wait_until(sound_twin, lambda state: state["time"] > 1)
    assert torques(sound_twin) == [1, 1, 0, 1, 1, 0.5]
    assert arm.bus.read("Torque_Enable", "elbow_flex", normalize=False) == 0
    assert arm.is_calibrated


@pytest.mark.parametrize("fault", ["drop 0.1", "corrupt 0.1"])
def test_over_a_bad_line_torque_is_cut_at_once_and_the_calibration_stays(fault, arm, sound_twin):
    connect_arm(arm)
    servos = FeetechServos(arm.bus)
    sound_twin.send(fault)
    with contextlib.suppress(ConnectionError, RuntimeError):  # that a servo has not said that it heard
        servos.set_torque(0.0)
    wait_until(sound_twin, lambda _: torques(sound_twin) == [0] * 6)
    sound_twin.send("clear")
    assert set(arm.bus.sync_read("Lock", normalize=False).values()) == {1}
    assert arm.is_calibrated


def test_other_errors_are_left_alone(arm):
    with pytest.raises(KeyError), arm_errors(arm):
        raise KeyError("a bug")
    with pytest.raises(RuntimeError, match="a bug"), arm_errors(arm):
        raise RuntimeError("a bug")


def test_naming_fresh_servos_one_at_a_time():
    """The steps of lerobot-setup-motors, with one servo plugged in at a time, all of them with the factory's id."""
    with start_twin(TwinSettings(ids=(1,) * 6, calibrated=False), in_thread=True) as twin:
        arm = make_arm(settings("robot.id=fresh", f"robot.port={twin.port}", f"robot.calibration_dir={twin.folder}"))
        for joint in reversed(SO101.joints):
            twin.send(f"attach {joint}")
            arm.bus.setup_motor(joint, initial_baudrate=1_000_000, initial_id=1)
        twin.send("attach all")
        arm.bus.disconnect(disable_torque=False)
        arm.bus.connect()
        assert arm.bus.read("ID", "gripper") == 6
        arm.bus.disconnect()


def test_the_calibration_in_the_twin_is_the_one_on_disk(sound_twin):
    calibration = json.loads((sound_twin.calibration_dir / "twin.json").read_text())
    assert list(calibration) == list(SO101.joints)
    middles = [(entry["range_min"] + entry["range_max"]) / 2 for entry in calibration.values()][:5]
    assert np.array(middles) == pytest.approx(2047, abs=1)  # LeRobot's 0 degrees are the joints' zero
