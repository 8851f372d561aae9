"""A running twin: its serial port byte by byte, faults on command, and the processes around it."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import serial

from configs.composing import as_dict, load_config
from envs.so101.twin import TwinScene
from robot_io.feetech.protocol import BROADCAST, Instruction, Packet, Parser, pack
from robot_io.twin import TwinControl, TwinSettings, start_twin
from robot_io.twin.bare_arm import BareArm
from robot_io.twin.servo import SERVO_MODELS, Firmware
from tinyvla.arms.so101 import SO101
from tinyvla.errors import UserError

ROOT = Path(__file__).parents[2]
READ_ALL = Packet(BROADCAST, Instruction.SYNC_READ, bytes([56, 2, 1, 2, 3, 4, 5, 6]))
PATIENCE = 60  # seconds


@pytest.fixture
def line(sound_twin):
    with serial.Serial(sound_twin.port, 1_000_000, timeout=2) as line:
        yield line


def ask(line, packet, timeout=2.0):
    """Packets that come back, until nothing more comes."""
    line.timeout = timeout
    line.reset_input_buffer()
    line.write(pack(packet))
    received = line.read(6)
    line.timeout = 0.05
    while more := line.read(250):
        received += more
    return Parser().feed(received)


def test_servos_answer_on_the_terminal(line):
    assert ask(line, Packet(3, Instruction.PING)) == [Packet(3, 0)]
    answers = ask(line, READ_ALL)
    assert [packet.id for packet in answers] == [1, 2, 3, 4, 5, 6]
    assert [len(packet.parameters) for packet in answers] == [2] * 6


def test_the_terminals_speed_counts(sound_twin):
    with serial.Serial(sound_twin.port, 115_200) as line:
        assert ask(line, Packet(3, Instruction.PING), 0.3) == []
        line.baudrate = 1_000_000
        assert ask(line, Packet(3, Instruction.PING)) == [Packet(3, 0)]


def test_a_host_that_speaks_again_gets_the_older_answers_first(line, sound_twin):
    """Servos have answered by then, whatever holds their bytes up."""
    sound_twin.send("late 0.3")
    line.write(pack(READ_ALL))
    time.sleep(0.1)
    line.write(pack(Packet(2, Instruction.PING)))
    answers = Parser().feed(line.read(6 * 8 + 6))
    assert [packet.id for packet in answers] == [1, 2, 3, 4, 5, 6, 2]
    assert sound_twin.state()["wire"]["given_up"] >= 6


def test_a_stall_holds_bytes_back_once_and_in_order(line, sound_twin):
    sound_twin.send("stall 0.5")
    line.write(pack(READ_ALL))
    line.timeout = 0.2
    assert line.read(1) == b""
    line.write(pack(Packet(2, Instruction.PING)))
    line.timeout = 20
    answers = Parser().feed(line.read(6 * 8 + 6))
    assert [packet.id for packet in answers] == [1, 2, 3, 4, 5, 6, 2]
    assert ask(line, Packet(3, Instruction.PING)) == [Packet(3, 0)]
    sound_twin.send("stall 60")
    sound_twin.send("clear")
    assert ask(line, Packet(3, Instruction.PING)) == [Packet(3, 0)]


def test_the_next_answers_come_twice(line, sound_twin):
    sound_twin.send("double 2")
    assert [packet.id for packet in ask(line, READ_ALL)] == [1, 1, 2, 2, 3, 4, 5, 6]
    assert ask(line, Packet(3, Instruction.PING)) == [Packet(3, 0)]


def test_a_servo_answers_with_anothers_id(line, sound_twin):
    sound_twin.send("wrong_id elbow_flex")
    assert [packet.id for packet in ask(line, READ_ALL)] == [1, 2, 4, 4, 5, 6]
    sound_twin.send("clear")
    assert ask(line, Packet(3, Instruction.PING)) == [Packet(3, 0)]


def test_an_unfinished_packet_is_forgotten(line):
    line.write(pack(READ_ALL)[:5])
    time.sleep(0.2)
    assert ask(line, Packet(1, Instruction.PING)) == [Packet(1, 0)]


@pytest.mark.parametrize("fault", ["drop 0.1", "corrupt 0.1"])
def test_bytes_get_lost_or_damaged(fault, line, sound_twin):
    sound_twin.send(fault)
    answers = [ask(line, Packet(2, Instruction.PING), 0.2) for _ in range(15)]
    whole = [answer for answer in answers if answer == [Packet(2, 0)]]
    assert 0 < len(whole) < 15
    sound_twin.send("clear")
    assert ask(line, Packet(2, Instruction.PING)) == [Packet(2, 0)]


def test_faults_end_when_their_time_is_up(line, sound_twin):
    sound_twin.send("silent elbow_flex for 0.4")
    assert sound_twin.state()["faults"] == [["silent", "elbow_flex", 0.0]]
    assert ask(line, Packet(3, Instruction.PING), 0.1) == []
    assert ask(line, Packet(4, Instruction.PING)) == [Packet(4, 0)]
    deadline = time.monotonic() + PATIENCE
    while sound_twin.state()["faults"]:
        assert time.monotonic() < deadline
    assert ask(line, Packet(3, Instruction.PING)) == [Packet(3, 0)]


def test_a_pulled_cable_comes_back_at_the_same_path(line, sound_twin):
    sound_twin.send("unplug")
    assert not os.path.lexists(sound_twin.port)
    with pytest.raises((serial.SerialException, OSError)):
        ask(line, Packet(1, Instruction.PING))
    with pytest.raises(serial.SerialException):
        serial.Serial(sound_twin.port)
    sound_twin.send("clear")
    with serial.Serial(sound_twin.port, 1_000_000) as again:
        assert ask(again, Packet(1, Instruction.PING)) == [Packet(1, 0)]


def test_a_weak_supply_is_reported(line, sound_twin):
    sound_twin.send("sag")
    deadline = time.monotonic() + PATIENCE
    while ask(line, Packet(1, Instruction.PING)) != [Packet(1, 1)]:
        assert time.monotonic() < deadline


@pytest.mark.parametrize(
    ("command", "what"),
    [
        ("dance", "unknown command 'dance'; there are help, state"),
        ("silent elbow", "silent does not strike 'elbow'; name one of shoulder_pan"),
        ("silent elbow_flex 3", "silent takes no number"),
        ("overload elbow_flex nan", "its number is finite"),
        ("stuck elbow_flex for ever", "cannot read"),
        ("hand elbow=3", "there is no joint 'elbow'"),
        ("hand elbow_flex", "cannot read"),
        ("attach elbow", "there is no servo 'elbow'"),
        ("place 1 2", "place takes the 6 finite numbers"),
        ("reset now", "cannot read"),
    ],
)
def test_commands_that_mean_nothing(command, what, sound_twin):
    with pytest.raises(UserError, match=what):
        sound_twin.send(command)
    assert sound_twin.state()["faults"] == []


def test_the_true_state_can_be_read_and_set(sound_twin):
    pose = np.radians([20, -50, 50, 10, -30, 40])
    sound_twin.place(pose)
    state = sound_twin.state()
    assert np.array(state["qpos"]) == pytest.approx(pose, abs=0.1)
    assert state["joints"]["shoulder_pan"]["angle"] == pytest.approx(20, abs=3)
    sound_twin.send("reset")
    assert np.array(sound_twin.state()["qpos"]) == pytest.approx(np.radians([0, -100, 90, 60, 0, 0]), abs=0.1)
    assert list(state["joints"]) == list(SO101.joints)


def test_a_twin_in_a_process_of_its_own_ends_with_its_block():
    with start_twin(TwinSettings()) as twin:
        folder = twin.folder
        with serial.Serial(twin.port, 1_000_000) as line:
            assert ask(line, Packet(1, Instruction.PING)) == [Packet(1, 0)]
    assert not folder.exists()
    with pytest.raises(UserError, match="no twin runs in"):
        TwinControl(folder)


def test_a_twin_that_cannot_start_says_why():
    robot = as_dict(load_config("simulate_arm", ["robot=so101", "robot.twin.scene=no.such"]).robot)
    with pytest.raises(UserError, match=r"robot.twin.scene=no.such does not exist"):
        TwinSettings.from_config(robot)
    scene = partial(TwinScene, task="reech")
    with pytest.raises(UserError, match="unknown SO-101 task or suite 'reech'"), start_twin(TwinSettings(scene=scene)):
        pass


def test_a_scene_by_its_dotted_name_old_and_new():
    for name in ("robot_io.twin.bare_arm.BareArm", "robot_io.twin.scene.BareArm"):
        robot = as_dict(load_config("simulate_arm", ["robot=so101", f"robot.twin.scene={name}"]).robot)
        assert isinstance(TwinSettings.from_config(robot).scene(), BareArm)
    robot = as_dict(load_config("simulate_arm", ["robot.twin.scene_options.task=push"]).robot)
    assert TwinSettings.from_config(robot).scene().simulation.task == "push"


def test_the_version_of_the_servos_and_their_uncertain_behaviour_are_settings():
    def section(*changes):
        return TwinSettings.from_config(as_dict(load_config("simulate_arm", ["robot=so101", *changes]).robot))

    default = section()
    assert default.servo == SERVO_MODELS["C001"]
    assert (default.drivetrain.stall, default.firmware) == (2.94, Firmware(True, True, False))
    changes = ["servo=C018", "supply=11.1", "drivetrain.stall=0", "phase=[12,141,12,12,12,12]"]
    changes += ["overload_latched=false", "goal_follows=false", "goal_enables_torque=true"]
    changed = section(*(f"robot.twin.{change}" for change in changes))
    assert changed.servo == replace(SERVO_MODELS["C018"], supply=11.1)
    assert (changed.drivetrain.stall, changed.firmware) == (2.94, Firmware(False, False, True))
    assert section("robot.twin.drivetrain.stall=0").drivetrain.stall == 1.91
    servos = changed.make_servos()
    assert [servo.get("Phase") for servo in servos] == [12, 141, 12, 12, 12, 12]
    assert {servo.get("Max_Voltage_Limit") for servo in servos} == {140}


@pytest.mark.slow
def test_simulate_arm_from_the_command_line(tmp_path):
    folder = tmp_path / "twin"
    command = [sys.executable, ROOT / "simulate_arm.py", "robot=so101", f"robot.twin.folder={folder}"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, cwd=tmp_path, **pipes)
    try:
        assert process.stdout.readline() == f"port: {folder}/port\n"
        assert f"robot.port={folder}/port" in process.stdout.readline()
        process.stdout.readline()
        with serial.Serial(f"{folder}/port", 1_000_000) as line:
            assert ask(line, Packet(1, Instruction.PING), 20) == [Packet(1, 0)]
        process.stdin.write("help\ndance\n")
        process.stdin.flush()
        answers = ""
        while "unknown command 'dance'" not in answers:
            answers += process.stdout.readline()
        assert "camera_repeats" in answers
        again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert (again.returncode, again.stdout) == (2, "")
        assert "exists; give robot.twin.folder another name" in again.stderr
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 0, process.stderr.read()
        assert not folder.exists()
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["robot=koch"], "there is no twin of koch_follower; use robot=so101"),
        (["robot=so101", "robot.twin.ids=[1,2]"], "robot.twin.ids has 2 numbers; an SO-101 has 6 servos"),
        (["robot=so101", "robot.twin.ids=[1,2,3,4,5,300]"], "robot.twin.ids has 300"),
        (["robot=so101", "robot.twin.phase=[12]"], "robot.twin.phase has 1 numbers; an SO-101 has 6 servos"),
        (["robot=so101", "robot.twin.phase=[12,12,12,12,12,255]"], "robot.twin.phase has 255"),
        (["robot=so101", "robot.twin.servo=C017"], "robot.twin.servo=C017 is not one of C001, C018"),
        (["robot=so101", "robot.twin.supply=40"], "robot.twin.supply=40 does not fit"),
        (["robot=so102"], "robot has no choice 'so102'; did you mean so101"),
    ],
)
def test_mistakes_on_the_command_line(arguments, what, capsys, monkeypatch):
    import simulate_arm

    monkeypatch.setattr(sys, "argv", ["simulate_arm.py", *arguments])
    with pytest.raises(SystemExit) as leaving:
        simulate_arm.main()
    captured = capsys.readouterr()
    assert (leaving.value.code, captured.out, captured.err.count("\n")) == (2, "", 1)
    assert what in captured.err
