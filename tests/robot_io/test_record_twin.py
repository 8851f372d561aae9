"""record.py as a user types it: a twin that is moved by hand leads another one, over two serial ports."""

import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from policies.data import open_dataset
from robot_io.twin import TwinSettings, start_twin
from robot_io.twin.camera_rendering import CameraView
from tinyvla.arms.so101 import SO101

ROOT = Path(__file__).parents[2]
VIEWS = {"laptop": CameraView("front", 64, 48, 30), "phone": CameraView("wrist_cam", 32, 32, 30)}
PATIENCE_S = 180.0  # on a busy machine


class Program:
    """record.py in a pseudo-terminal, whose keys a test presses."""

    def __init__(self, *arguments):
        self._terminal, end = pty.openpty()
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        command = [sys.executable, str(ROOT / "record.py"), *arguments]
        self.process = subprocess.Popen(command, stdin=end, stdout=end, stderr=end, env=environment)
        os.close(end)
        self.output = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        while True:
            try:
                content = os.read(self._terminal, 4096)
            except OSError:
                return
            if not content:
                return
            self.output += content.decode(errors="replace")

    def press(self, keys):
        os.write(self._terminal, keys.encode())

    def wait_for(self, text):
        end = time.monotonic() + PATIENCE_S
        while text not in self.output:
            assert time.monotonic() < end, self.output[-3000:]
            assert self.process.poll() is None, self.output[-3000:]
            time.sleep(0.02)

    def finish(self):
        code = self.process.wait(PATIENCE_S)
        self._reader.join(5)
        return code


@pytest.fixture(scope="module")
def arms():
    with (
        start_twin(TwinSettings(cameras=VIEWS)) as follower,
        start_twin(TwinSettings(robot_id="leader")) as leader,
    ):
        yield follower, leader


def arguments(arms, root, **settings):
    follower, leader = arms
    cameras = ", ".join(
        f"{name}: {{type: twin, folder: {follower.folder}, width: {view.width}, height: {view.height}, fps: 30}}"
        for name, view in VIEWS.items()
    )
    values = {
        "robot.port": follower.port,
        "robot.calibration_dir": follower.calibration_dir,
        "robot.id": "twin",
        "robot.cameras": f"{{{cameras}}}",
        "teleop.port": leader.port,
        "teleop.calibration_dir": leader.calibration_dir,
        "dataset": root,
        "instruction": "'pick up the cube'",
        "approach_speed": 1.0,
        "run_dir": root.parent / f"run-{time.monotonic_ns()}",
        **settings,
    }
    return [f"{name}={value}" for name, value in values.items()]


def move(control, command):
    control.send(command)
    end = time.monotonic() + PATIENCE_S
    while not control.state()["hand_arrived"]:
        assert time.monotonic() < end
        time.sleep(0.05)


def angles(control):
    return np.array([control.state()["joints"][joint]["angle"] for joint in SO101.joints])


@pytest.mark.slow
def test_a_leader_records_with_keys_and_the_dataset_can_be_continued_after_a_kill(arms, tmp_path):
    _, leader = arms
    root = tmp_path / "demos"
    move(leader, "hand shoulder_pan=0 shoulder_lift=-60 elbow_flex=60 wrist_flex=40 wrist_roll=0 gripper=30")
    program = Program(*arguments(arms, root, episodes=4, reset_s=0))
    program.wait_for("episode 1 of 4: pick up")
    program.wait_for("episode 1 of 4, 0.")
    move(leader, "hand shoulder_pan=20 elbow_flex=50")
    program.press("\x1b[C")
    program.wait_for("episode 1 of 4: keep")
    program.wait_for("episode 2 of 4, 1.")
    program.press("r")
    program.wait_for("episode 2 of 4: record again")
    program.output = ""
    program.wait_for("episode 2 of 4, 1.")
    program.press("n")
    program.wait_for("episode 2 of 4: keep")
    program.wait_for("episode 3 of 4, 1.")
    program.process.send_signal(signal.SIGKILL)
    program.finish()
    end = time.monotonic() + PATIENCE_S
    while (root / ".unfinished").exists():  # the writer ends by itself
        assert time.monotonic() < end
        time.sleep(0.05)
    dataset = open_dataset(root)
    assert (dataset.meta.total_episodes, dataset.fps) == (2, 30)
    assert dataset.meta.features["observation.images.laptop"]["shape"] == (48, 64, 3)
    assert dataset.meta.features["observation.images.phone"]["shape"] == (32, 32, 3)
    actions = np.array(dataset.hf_dataset["action"])
    assert np.ptp(actions[: dataset.meta.episodes[0]["length"], 0]) > 10
    assert set(dataset.meta.tasks.index) == {"pick up the cube"}

    refused = Program(*arguments(arms, root, episodes=4))
    assert refused.finish() == 2
    assert "exists already; add episodes to it with resume=true" in refused.output
    program = Program(
        *arguments(arms, root, episodes=3, resume="true", reset_s=0, seconds=1.5, **{"run_dir": tmp_path / "last"})
    )
    assert program.finish() == 0, program.output[-3000:]
    assert "episode 3 of 3: keep, 1.5 s" in program.output
    assert open_dataset(root).meta.total_episodes == 3
    report = json.loads((tmp_path / "last/record.json").read_text())
    assert (report["kept"], report["recording"]["episodes"], report["ended"]) == (1, 3, "time")


@pytest.mark.slow
def test_ctrl_c_and_q_leave_what_is_finished(arms, tmp_path):
    follower, leader = arms
    move(leader, "hand shoulder_pan=0 shoulder_lift=-60 elbow_flex=60 wrist_flex=40 wrist_roll=0 gripper=30")
    for name in ("interrupted", "finished"):
        root = tmp_path / name
        program = Program(*arguments(arms, root, episodes=9, reset_s=0, seconds=1.0))
        program.wait_for("episode 2 of 9, 0.")
        if name == "interrupted":
            program.process.send_signal(signal.SIGINT)
        else:
            program.press("q")
        assert program.finish() == 0, program.output[-3000:]
        assert open_dataset(root).meta.total_episodes == 1
    assert {joint["torque"] for joint in follower.state()["joints"].values()} == {0}
