"""Search for arms, twins and cameras, and the commands that are proposed for them."""

import contextlib
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from configs.composing import as_dict, load_config
from robot_io.setup.person import Person
from robot_io.setup.proposals import propose_setup, propose_use
from robot_io.setup.search import FoundArm, cameras_setting, find_arms, moved_port, section_text
from robot_io.setup.twins import RunningTwin, record_twin, running_twins
from robot_io.twin import TwinSettings, start_twin

ROOT = Path(__file__).parents[2]
ARM = [1, 2, 3, 4, 5, 6]


def listener(pressed=True):
    heard: list[str] = []
    return heard, Person(heard.append, heard.append, lambda prompt: "", lambda: pressed)


def test_ports_with_their_servos(sound_twin, tmp_path):
    (arm,) = find_arms([sound_twin.port])
    assert (arm.ids, arm.is_arm, arm.is_follower) == (ARM, True, False)
    assert arm.volts == pytest.approx(7.4, abs=0.3)
    (missing,) = find_arms([str(tmp_path / "ttyACM9")])
    assert not missing.ids
    assert str(missing) != str(arm)


def test_a_supply_of_12_volts_is_a_followers():
    heard, person = listener()
    arms = [FoundArm("/dev/ttyACM0", ARM, volts=5.1), FoundArm("/dev/ttyACM1", ARM, volts=12.1)]
    assert "12.1 V, so it is a follower" in str(arms[1])
    propose_setup(arms, [], person, patience=1)
    assert heard == [
        "Next: python robot_setup.py robot=so101_leader robot.id=my_leader robot.port=/dev/ttyACM0 step=all",
        "Next: python robot_setup.py robot=so101 robot.id=my_follower robot.port=/dev/ttyACM1 step=all",
    ]


def test_one_arm_may_be_either():
    heard, person = listener()
    propose_setup([FoundArm("/dev/ttyACM0", [1], volts=5.1), FoundArm("/dev/x", [], "no permission")], [], person, 1)
    assert [line.partition("robot=")[2].split()[0] for line in heard] == ["so101", "so101_leader"]


def test_the_leader_is_the_arm_that_the_person_moves(sound_twin):
    with start_twin(TwinSettings(calibrated=False), in_thread=True) as other:
        ports = [sound_twin.port, other.port]
        assert moved_port(ports, lambda: True, 30) is None
        timer = threading.Timer(0.5, lambda: other.send("hand shoulder_lift=-40"))
        timer.start()
        assert moved_port(ports, lambda: False, 30) == other.port
        timer.join()


def twin_section(robot, folder):
    return as_dict(load_config("simulate_arm", [f"robot={robot}", "robot.id=lead"]).robot)


def test_running_twins_are_found_and_dead_ones_are_not(tmp_path):
    with start_twin(TwinSettings(robot_id="lead"), in_thread=True) as control:
        section = twin_section("so101_leader", control.folder)
        record_twin(section, control.folder)
        (tmp_path / "twin-alive").symlink_to(control.folder)
        for name, content in (
            ("dead", (control.folder / "robot.json").read_text()),
            ("odd", "{"),
            ("other", '{"a": 1}'),
        ):
            (tmp_path / f"twin-{name}").mkdir()
            (tmp_path / f"twin-{name}/robot.json").write_text(content)
        (twin,) = running_twins(tmp_path)
        assert twin.is_leader
        assert twin.settings == (
            f"robot=so101_leader robot.port={tmp_path}/twin-alive/port "
            f"robot.calibration_dir={tmp_path}/twin-alive/calibration robot.id=lead"
        )
    assert running_twins(tmp_path) == []


def test_settings_of_a_twin_with_cameras(tmp_path):
    section = as_dict(load_config("simulate_arm", []).robot)
    twin = record_twin(section, tmp_path)
    assert twin.settings.startswith("robot=so101 robot.port=")
    assert twin.lerobot_settings.startswith("--robot.type=so101_follower --robot.port=")
    assert json.loads((tmp_path / "robot.json").read_text())["cameras"]["front"]["folder"] == str(tmp_path)
    setting = cameras_setting({name: section_text(camera) for name, camera in twin.cameras.items()})
    words = ["robot=so101", "robot.port=x", setting.strip("'")]
    assert as_dict(load_config("deploy", ["checkpoint=x", *words]).robot)["cameras"] == twin.cameras


def test_settings_of_a_leader():
    heard, person = listener()
    propose_use({"type": "so101_leader", "port": "/dev/ttyACM1", "id": "lead", "calibration_dir": None}, True, person)
    assert heard == [
        "LeRobot's programs take: --teleop.type=so101_leader --teleop.port=/dev/ttyACM1 --teleop.id=lead",
        "deploy.py takes: takeover.type=so101_leader takeover.port=/dev/ttyACM1 takeover.id=lead",
    ]
    assert RunningTwin(Path("/t"), "so100_follower", "a").settings.startswith("robot=so100 ")


@pytest.mark.slow
def test_find_and_check_from_the_command_line(tmp_path):
    """A leader's twin is started, found, and told apart; an interrupted setup says how it goes on."""
    environment = os.environ | {"TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    twin = subprocess.Popen(
        [sys.executable, ROOT / "simulate_arm.py", "robot=so101_leader", "robot.id=lead"],
        stdout=subprocess.PIPE,
        stdin=subprocess.PIPE,
        text=True,
        env=environment,
    )

    def setup(*words):
        command = [sys.executable, ROOT / "robot_setup.py", *words]
        return subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, env=environment, stdin=subprocess.DEVNULL
        )

    try:
        assert twin.stdout
        twin.stdout.readline()
        settings = twin.stdout.readline().removeprefix("settings: ").split()
        search = setup("step=find")
        assert search.returncode == 0, search.stderr
        assert f"Next: python robot_setup.py {' '.join(settings)} step=all" in search.stdout
        checked = setup(*settings, "step=all")
        assert checked.returncode == 2
        assert "It is calibrated" in checked.stdout
        assert "then: python robot_setup.py robot=so101_leader" in checked.stderr
        assert checked.stderr.count("\n") == 1
    finally:
        twin.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            twin.wait(20)
