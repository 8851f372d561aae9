"""Setting an arm or a leader up, with a twin in its place that is moved by hand."""

import json
import os
import shutil
import threading
import time
from pathlib import Path

import pytest

from robot_io.arms import make_arm, make_leader
from robot_io.setup import line
from robot_io.setup.assistant import Assistant
from robot_io.setup.calibration import STEPS_PER_DEGREE, moved_joint
from robot_io.setup.hand_calibration import SweptRanges
from robot_io.setup.person import Person
from robot_io.setup.progress import Progress
from robot_io.twin import TwinSettings, start_twin
from tinyvla.arms.so101 import SO101
from tinyvla.errors import UserError

pytestmark = pytest.mark.usefixtures("patient")
STILL = dict.fromkeys(SO101.joints, 2047)


def arm(control, folder, robot_id="my_arm"):
    return make_arm({"type": "so101_follower", "id": robot_id, "port": control.port, "calibration_dir": str(folder)})


def leader(control, folder):
    return make_leader({"type": "so101_leader", "id": "lead", "port": control.port, "calibration_dir": str(folder)})


def calibrated(control, folder):
    """An arm with the calibration that its twin has."""
    shutil.copy(control.calibration_dir / "twin.json", folder / "my_arm.json")
    return arm(control, folder)


class Hand:
    """Person at a twin: moves the joints that are asked for, and plugs in the servos. `heard` are the lines shown.

    `stop_at` is a line at which the person presses Ctrl-C.
    """

    def __init__(self, control, stop_at=None):
        self.control, self.heard, self.stop_at = control, [], stop_at
        self.swept, self._sweep = threading.Event(), None
        self.person = Person(self.say, lambda text: None, self.ask, self.enter_pressed)

    def move(self, command):
        self.control.send(command)
        while not self.control.state()["hand_arrived"]:
            time.sleep(0.01)

    def say(self, text):
        self.heard.append(text)
        if self.stop_at and self.stop_at in text:
            raise KeyboardInterrupt
        if text.startswith("Move the "):
            joint = text.split()[2]
            degrees = self.control.state()["joints"][joint]["angle"]
            self.control.send(f"hand {joint}={degrees - 25 if degrees > 0 else degrees + 25}")

    def ask(self, prompt):
        self.heard.append(prompt)
        if self.stop_at and self.stop_at in prompt:
            raise KeyboardInterrupt
        if "middle of its range" in prompt:
            self.move("hand middle")
        elif "alone, and press" in prompt:
            self.control.send(f"attach {prompt.split('servo of the ')[1].split()[0]}")
        elif prompt.startswith("Connect all"):
            self.control.send("attach all")
        return ""

    def enter_pressed(self):
        if self._sweep is None:
            self._sweep = threading.Thread(target=self._move_through)
            self._sweep.start()
        return self.swept.is_set()

    def _move_through(self):
        self.move("hand sweep")
        self.swept.set()

    def said(self, text):
        return any(text in entry for entry in self.heard)


@pytest.fixture
def held_twin(sound_twin):
    """A twin whose joints a person holds, so that nothing sinks."""
    joints = sound_twin.state()["joints"]
    sound_twin.send("hand " + " ".join(f"{joint}={joints[joint]['angle']}" for joint in joints))
    return sound_twin


def test_which_joint_was_moved():
    assert moved_joint(STILL, STILL) is None
    assert moved_joint(STILL, STILL | {"elbow_flex": 2047 + 50}) is None  # 4 degrees: not yet
    assert moved_joint(STILL, STILL | {"elbow_flex": 2047 - 150}) == "elbow_flex"
    assert moved_joint(STILL, STILL | {"elbow_flex": 2200, "wrist_flex": 2180}) is None  # two at once
    assert moved_joint(STILL, STILL | {"elbow_flex": 2500, "wrist_flex": 2100}) == "elbow_flex"
    assert moved_joint({"wrist_roll": 4090}, {"wrist_roll": 60}) is None  # 6 degrees, past the encoder's end


def test_one_wrong_reading_does_not_widen_a_range():
    swept = SweptRanges({})
    for position in (2000, 2010, 2020, 65_000, 2040, 2050, 4000, 2070, 2080, 5, 2100, 2110, 2120):
        swept.add({"elbow_flex": position})
    assert swept.ranges == {"elbow_flex": [2010, 2110]}


def test_a_joint_that_passes_the_end_of_its_encoder_is_named():
    swept = SweptRanges({})
    for position in (4000, 4050, 4090, 30, 80):
        if position == 80:
            with pytest.raises(UserError, match="the elbow_flex passed the end of its encoder"):
                swept.add({"elbow_flex": position})
        else:
            swept.add({"elbow_flex": position})


def test_a_sound_arm_passes_the_check(held_twin, tmp_path):
    hand = Hand(held_twin)
    device = calibrated(held_twin, tmp_path)
    Assistant(device, hand.person, patience=30).run("check")
    assert [text.split()[2] for text in hand.heard if text.startswith("Move the ")] == list(SO101.joints)
    assert Progress.of(device).is_checked(device.calibration)


def test_swapped_cables_are_named(tmp_path):
    """The servos of the second and third joint have each other's id, and the person moves the true joint."""
    with start_twin(TwinSettings(ids=(1, 3, 2, 4, 5, 6)), in_thread=True) as control:
        hand = Hand(control)
        joints = control.state()["joints"]
        control.send("hand " + " ".join(f"{joint}={joints[joint]['angle']}" for joint in joints))
        with pytest.raises(UserError, match=r"the shoulder_lift was moved but the servo named elbow_flex turned"):
            Assistant(arm(control, tmp_path), hand.person, patience=30).check_joints()


def test_nobody_who_moves_the_arm_is_one_line(held_twin, tmp_path):
    person = Person(lambda text: None, lambda text: None, lambda prompt: "", lambda: False)
    with pytest.raises(UserError, match=r"no servo turned alone in 0 s; move the shoulder_pan"):
        Assistant(arm(held_twin, tmp_path), person, patience=0.2).check_joints()


def travel(device, joint):
    entry = device.calibration[joint]
    return (entry.range_max - entry.range_min) / STEPS_PER_DEGREE


def test_calibration_on_a_line_that_loses_packets(held_twin, tmp_path):
    """A lost packet ends nothing; the file is to the byte what LeRobot writes."""
    device, hand = arm(held_twin, tmp_path), Hand(held_twin)
    held_twin.send("drop 0.001")  # about one exchange of a sweep in ten
    Assistant(device, hand.person, patience=30).run("calibrate")
    held_twin.send("clear")
    again = arm(held_twin, tmp_path)
    assert again.calibration == device.calibration
    low, high = SO101.low[1], SO101.high[1]
    assert travel(again, "shoulder_lift") == pytest.approx(high - low, abs=8)
    assert travel(again, "gripper") == pytest.approx(110, abs=8)
    assert travel(again, "wrist_roll") == pytest.approx(360, abs=0.1)
    written = again.calibration_fpath.read_bytes()
    again._save_calibration()
    assert again.calibration_fpath.read_bytes() == written
    with line.open_bus(again) as bus:
        assert bus.is_calibrated
    assert hand.said("plausible")
    assert hand.said("Next: robot_setup.py step=check")


@pytest.mark.slow
def test_an_interrupted_sweep_goes_on(held_twin, tmp_path):
    """Ctrl-C in the middle of the sweep, and a second command that moves only what is left."""
    first = Hand(held_twin)
    presses = iter([False] * 40)

    def interrupt():
        if next(presses, None) is None:
            raise KeyboardInterrupt
        return False

    held_twin.send("hand middle")
    person = Person(first.say, lambda text: None, first.ask, interrupt)
    device = arm(held_twin, tmp_path)
    threading.Timer(0.3, lambda: held_twin_send(held_twin, "hand shoulder_pan=30")).start()
    with pytest.raises(KeyboardInterrupt):
        Assistant(device, person, patience=30).calibrate()
    progress = Progress.of(device)
    assert set(progress.ranges) == set(SO101.joints) - {"wrist_roll"}
    progress.ranges["elbow_flex"] = [1000, 3200]  # this joint was moved to both of its stops
    progress.save()

    hand = Hand(held_twin)
    Assistant(arm(held_twin, tmp_path), hand.person, patience=30).calibrate()
    assert hand.said("An interrupted calibration goes on")
    assert not hand.said("middle of its range")
    assert arm(held_twin, tmp_path).calibration["elbow_flex"].range_max == 3200
    assert Progress.of(device).ranges == {}


def held_twin_send(control, command):
    from robot_io.twin.client import TwinControl

    other = TwinControl(control.folder)
    other.send(command)
    other.close()


@pytest.mark.slow
def test_enter_pressed_too_early_says_which_joints_are_left(held_twin, tmp_path):
    class Hasty(Hand):
        hasty = True

        def enter_pressed(self):
            pressed = super().enter_pressed() or self.hasty
            self.hasty = False
            return pressed

    hand = Hasty(held_twin)
    Assistant(arm(held_twin, tmp_path), hand.person, patience=30).calibrate()
    assert hand.said("Not yet: shoulder_pan was moved through 0 degrees of at least 132")
    assert hand.said("plausible")


@pytest.mark.slow
def test_a_leader_is_set_up_where_lerobot_looks_for_teleoperators(held_twin, tmp_path, monkeypatch):
    monkeypatch.setattr("lerobot.teleoperators.teleoperator.HF_LEROBOT_CALIBRATION", tmp_path)
    device = make_leader({"type": "so101_leader", "id": "lead", "port": held_twin.port})
    hand = Hand(held_twin)
    Assistant(device, hand.person, patience=30).run("all")
    assert (tmp_path / "teleoperators/so_leader/lead.json").exists()
    again = Hand(held_twin)
    Assistant(make_leader({"type": "so101_leader", "id": "lead", "port": held_twin.port}), again.person).run("all")
    assert again.said("It is calibrated")
    assert again.said("Every joint was checked")


@pytest.mark.slow
def test_from_the_box_with_an_interruption_in_every_step(tmp_path):
    """New servos, all with the id 1: ids, calibration and check, each interrupted once, by one command."""
    with start_twin(TwinSettings(ids=(1,) * 6, calibrated=False), in_thread=True) as control:
        joints = control.state()["joints"]
        control.send("hand " + " ".join(f"{joint}={joints[joint]['angle']}" for joint in joints))
        stops = [
            "servo of the wrist_flex alone",
            "middle of its range",
            "Move each joint except",
            "Move the wrist_flex",
        ]
        for stop in stops:
            hand = Hand(control, stop)
            with pytest.raises(KeyboardInterrupt):
                Assistant(arm(control, tmp_path), hand.person, patience=30).run("all")
            assert hand.said(stop)
        hand = Hand(control)
        Assistant(arm(control, tmp_path), hand.person, patience=30).run("all")
        assert hand.said("It is calibrated")
        assert hand.said("is set up")
        assert not hand.said("alone, and press")


def test_a_calibration_of_other_servos_is_said(held_twin, tmp_path):
    """The file of another arm is plausible; the person is warned before the servos change, and may stop."""
    device = calibrated(held_twin, tmp_path)
    content = json.loads(device.calibration_fpath.read_text())
    content["elbow_flex"]["homing_offset"] += 100
    device.calibration_fpath.write_text(json.dumps(content))
    with line.open_bus(device) as bus:
        before = bus.read("Homing_Offset", "elbow_flex", normalize=False)
    hand = Hand(held_twin, stop_at="press Ctrl-C and give this one its own robot.id")
    with pytest.raises(KeyboardInterrupt):
        Assistant(arm(held_twin, tmp_path), hand.person).run("all")
    with line.open_bus(device) as bus:
        assert bus.read("Homing_Offset", "elbow_flex", normalize=False) == before


def test_a_missing_servo_is_one_line(held_twin, tmp_path):
    held_twin.send("attach shoulder_pan shoulder_lift elbow_flex wrist_flex wrist_roll")
    hand = Hand(held_twin)
    with pytest.raises(UserError, match=r"gripper \(id 6\) does not answer"):
        Assistant(arm(held_twin, tmp_path), hand.person).run("all")


def test_damaged_calibrations_are_one_line(held_twin, tmp_path):
    (tmp_path / "my_arm.json").write_text("{")
    with pytest.raises(UserError, match=r"my_arm.json is damaged"):
        arm(held_twin, tmp_path)
    device = calibrated(held_twin, Path(tmp_path))
    content = json.loads(device.calibration_fpath.read_text())
    content["elbow_flex"]["range_max"] = 4095
    content["elbow_flex"]["range_min"] = 0
    device.calibration_fpath.write_text(json.dumps(content))
    with pytest.raises(
        UserError, match=r"cannot be right: elbow_flex: the range 0 to 4095 is the encoder's whole turn"
    ):
        Assistant(arm(held_twin, tmp_path)).check_ranges()


def test_no_bus_and_no_terminal_are_one_line(monkeypatch):
    with pytest.raises(UserError, match="has no bus of servos"):
        Assistant(object())  # type: ignore[arg-type]

    def end(prompt):
        raise EOFError

    monkeypatch.setattr("builtins.input", end)
    with pytest.raises(UserError, match="run it in a terminal"):
        Person().ask("Move the arm")
    with open(os.devnull) as nothing:
        monkeypatch.setattr("sys.stdin", nothing)
        with pytest.raises(UserError, match="run it in a terminal"):
            Person().enter_pressed()
