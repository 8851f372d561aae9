"""Setting an arm up, with a twin in its place that is moved by hand."""

import threading

import pytest
from lerobot.motors import MotorCalibration

from robot_io.arms import make_arm
from robot_io.setup import Assistant, check_calibration, find_arms, joint_travel
from robot_io.setup.calibration import moved_joint
from robot_io.twin import TwinSettings, start_twin
from tinyvla.arms.so101 import SO101
from tinyvla.errors import UserError

TRAVEL = {"shoulder_lift": 200.0, "wrist_roll": 320.0}
STILL = dict.fromkeys(SO101.joints, 2047)


def entry(low, high):
    return MotorCalibration(id=1, drive_mode=0, homing_offset=0, range_min=low, range_max=high)


@pytest.mark.parametrize(
    ("low", "high", "complaint"),
    [
        (900, 3200, None),
        (300, 3900, "impossible, its stops are 200 apart"),
        (2000, 2400, "only 35 degrees of 200"),
        (3000, 1000, "the range 3000 to 1000 is empty"),
        (0, 5000, "the range 0 to 5000 is empty"),
        (0, 4095, None),  # a full turn: LeRobot gives the joint no range
    ],
)
def test_ranges_against_the_stops(low, high, complaint):
    problems = check_calibration({"shoulder_lift": entry(low, high)}, TRAVEL)
    assert (problems == []) == (complaint is None)
    assert complaint is None or (complaint in problems[0] and problems[0].startswith("shoulder_lift:"))


def test_an_arm_whose_stops_are_unknown_is_held_to_reason():
    assert joint_travel("koch_follower") == {}
    assert check_calibration({"elbow": entry(1000, 3000)}, {}) == []
    assert "only 9 degrees" in check_calibration({"elbow": entry(2000, 2100)}, {})[0]


def test_the_stops_of_an_so101():
    travel = joint_travel("so_follower")
    assert set(travel) == set(SO101.joints)
    assert 190 < travel["shoulder_lift"] < 220


def test_which_joint_was_moved():
    assert moved_joint(STILL, STILL) is None
    assert moved_joint(STILL, STILL | {"elbow_flex": 2047 + 50}) is None  # 4 degrees: not yet
    assert moved_joint(STILL, STILL | {"elbow_flex": 2047 - 150}) == "elbow_flex"
    assert moved_joint(STILL, STILL | {"elbow_flex": 2200, "wrist_flex": 2180}) is None  # two at once
    assert moved_joint(STILL, STILL | {"elbow_flex": 2500, "wrist_flex": 2100}) == "elbow_flex"
    assert moved_joint({"wrist_roll": 4090}, {"wrist_roll": 60}) is None  # 6 degrees, past the encoder's end


def arm(control, robot_id="twin"):
    return make_arm({"type": "so101_follower", "id": robot_id, "cameras": None}, control)


class Person:
    """Hears what the assistant says, and moves the joint that it asks for."""

    def __init__(self, control):
        self.control, self.heard = control, []
        joints = control.state()["joints"]
        control.send("hand " + " ".join(f"{joint}={joints[joint]['angle']}" for joint in joints))  # nothing sinks

    def __call__(self, line):
        self.heard.append(line)
        if line.startswith("Move the "):
            joint = line.split()[2]
            degrees = self.control.state()["joints"][joint]["angle"]
            towards = degrees - 25 if degrees > 0 else degrees + 25
            self.control.send(f"hand {joint}={towards}")


def test_ports_with_their_servos(sound_twin, tmp_path):
    (arm,) = find_arms([sound_twin.port])
    assert arm.ids == [1, 2, 3, 4, 5, 6]
    (missing,) = find_arms([str(tmp_path / "ttyACM9")])
    assert not missing.ids
    assert str(missing) != str(arm)


def test_a_sound_arm_passes_the_check(sound_twin, patient):
    person = Person(sound_twin)
    assistant = Assistant(arm(sound_twin), person, patience=30)
    assistant.check_ranges()
    assistant.check_joints()
    assert [line.split()[2] for line in person.heard if line.startswith("Move the ")] == list(SO101.joints)


def test_swapped_cables_are_told(patient):
    """The servos of the second and third joint have each other's id, and the person moves the true joint."""
    with (
        start_twin(TwinSettings(ids=(1, 3, 2, 4, 5, 6)), in_thread=True) as control,
        pytest.raises(UserError, match=r"the shoulder_lift was moved but the servo named elbow_flex turned"),
    ):
        Assistant(arm(control), Person(control), patience=30).check_joints()


def test_nobody_who_moves_the_arm_is_one_line(sound_twin, patient):
    with pytest.raises(UserError, match=r"no servo turned alone in 0 s; move the shoulder_pan"):
        Assistant(arm(sound_twin), lambda _: None, patience=0.2).check_joints()


def test_calibrating_moves_the_arm_by_hand_and_stores_what_lerobot_reads(sound_twin, patient, monkeypatch, tmp_path):
    """LeRobot's own calibration, answered as a person would."""
    swept = threading.Event()

    def answer(prompt=""):
        if "middle" in prompt:
            move("hand middle")
            return ""
        return "c"  # calibrate although there is a calibration

    def move(words):
        sound_twin.send(words)
        while not sound_twin.state()["hand_arrived"]:
            pass

    def sweep():
        move("hand sweep")
        swept.set()

    def enter_pressed():
        if not sweeping:
            sweeping.append(threading.Thread(target=sweep))
            sweeping[0].start()
        return swept.is_set()

    sweeping: list[threading.Thread] = []
    monkeypatch.setattr("builtins.input", answer)
    monkeypatch.setattr("lerobot.motors.motors_bus.enter_pressed", enter_pressed)
    robot = arm(sound_twin)
    before = robot.calibration_fpath.read_text()
    heard: list[str] = []
    Assistant(robot, heard.append).calibrate()
    assert "plausible" in heard[-1]
    again = arm(sound_twin)
    assert set(again.calibration) == set(SO101.joints)
    low, high = (getattr(again.calibration["shoulder_lift"], name) for name in ("range_min", "range_max"))
    assert abs((high - low) * 360 / 4096 - joint_travel("so_follower")["shoulder_lift"]) < 8
    robot.calibration_fpath.write_text(before)


def test_no_port_and_no_bus_are_one_line():
    with pytest.raises(UserError, match="step=find shows the ports"):
        Assistant(None).check_ranges()
    with pytest.raises(UserError, match="has no bus of servos"):
        Assistant(object()).check_ranges()  # type: ignore[arg-type]
