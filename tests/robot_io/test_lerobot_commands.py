"""LeRobot's own programs, unmodified, on twins: a leader that is moved by hand and a follower. Run with -s to watch.

They give a servo 50 ms to answer. On a machine that has no core to spare, SERVO_PATIENCE_MS=500 makes that longer, and
changes nothing else.
"""

import os
import re
import shlex
import subprocess
import sys
import threading
import time
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest

import envs.rendering  # noqa: F401 (chooses what MuJoCo draws with, here and in the twins)
from robot_io.twin import TwinSettings, start_twin
from robot_io.twin.camera_rendering import CameraView
from tinyvla.arms.so101 import SO101

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
CAMERA = CameraView("front", 64, 64, 30)
PATIENCE = 300  # seconds for a program on a busy machine
SERVO_PATIENCE = float(os.environ.get("SERVO_PATIENCE_MS", "0"))
PATIENT = """
import sys
from lerobot.motors.feetech import feetech
usual, patience = feetech.patch_setPacketTimeout, float(sys.argv[1])
def longer(self, length):
    usual(self, length)
    self.packet_timeout += patience
feetech.patch_setPacketTimeout = longer
from importlib import import_module
module = import_module("lerobot.scripts." + sys.argv[2].replace("-", "_"))
sys.argv = sys.argv[2:]
module.main()
"""


def documented(name, places):
    """Arguments of a program as docs/real-arm.md gives them, with the paths there replaced by those of `places`."""
    text = (ROOT / "docs/real-arm.md").read_text()
    command = re.search(rf"^uv run {name} \\\n(?:.*\\\n)*.*", text, re.MULTILINE)[0].replace("\\\n", " ")
    for path, place in places.items():
        assert name != "lerobot-record" or path in command, path
        command = command.replace(path, str(place))
    return shlex.split(command)[3:]


def start(name, *arguments, until):
    """A program that has got so far as to write `until`. On a machine without a core to spare LeRobot, which gives a
    servo 50 ms, may find one missing when it connects, and is started again."""
    for _ in range(4):
        program = Program(name, *arguments)
        if program.wait_for(until):
            return program
        print(program.output[-300:])
        assert "motor check failed" in program.output or "no status packet" in program.output, program.output[-3000:]
    raise AssertionError(f"{name} did not connect:\n{program.output[-3000:]}")


class Program:
    """A program of LeRobot's, what it has written so far, and its stdin."""

    def __init__(self, name, *arguments):
        command = [BIN / name, *arguments]
        if SERVO_PATIENCE:
            command = [sys.executable, "-c", PATIENT, str(SERVO_PATIENCE), name, *arguments]
        print("\n$", name, *arguments)
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONUNBUFFERED": "1", "COLUMNS": "120"},
        )
        self.output = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        while data := os.read(self.process.stdout.fileno(), 4096):
            self.output += data.decode(errors="replace")

    def wait_for(self, text):
        """True once it has written that, False if it ended without."""
        deadline = time.monotonic() + PATIENCE
        while text not in self.output:
            if self.process.poll() is not None:
                self._reader.join()
                return text in self.output
            assert time.monotonic() < deadline, self.output[-3000:]
            time.sleep(0.05)
        return True

    def press_enter(self):
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()

    def finish(self):
        code = self.process.wait(timeout=PATIENCE)
        self._reader.join()
        lines = [line for line in self.output.replace("\033", "").splitlines() if line.strip()]
        print("\n".join(lines[-12:]))
        assert code == 0, self.output[-3000:]


def move(control, command):
    """Move a twin by hand and wait until it is there."""
    control.send(command)
    deadline = time.monotonic() + PATIENCE
    while not control.state()["hand_arrived"]:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def calibrate(control, *arguments):
    program = start("lerobot-calibrate", *arguments, until="middle of its range")
    move(control, "hand middle")
    program.press_enter()
    assert program.wait_for("Recording positions"), program.output[-3000:]
    move(control, "hand sweep")
    program.press_enter()
    program.finish()
    assert "Calibration saved" in program.output
    control.send("hand release")


def angles(control):
    return np.array([control.state()["joints"][joint]["angle"] for joint in SO101.joints])


def test_calibrate_teleoperate_record_and_replay(tmp_path):
    fresh = TwinSettings(calibrated=False, mounting=(-38, 112, -67, 25, 301, -140), cameras={"front": CAMERA})
    with start_twin(fresh) as follower, start_twin(TwinSettings(calibrated=False)) as leader:
        robot = ["--robot.type=so101_follower", f"--robot.port={follower.port}", "--robot.id=my_follower"]
        robot += [f"--robot.calibration_dir={tmp_path}"]
        teleop = ["--teleop.type=so101_leader", f"--teleop.port={leader.port}", "--teleop.id=my_leader"]
        teleop += [f"--teleop.calibration_dir={tmp_path}"]
        video = tmp_path / "laptop.mp4"
        iio.imwrite(video, np.full((30, 480, 640, 3), 99, np.uint8), fps=30, codec="libx264")
        places = {
            "/tmp/follower/port": follower.port,
            "/tmp/follower/calibration": tmp_path,
            "/tmp/leader/port": leader.port,
            "/tmp/leader/calibration": tmp_path,
        }
        calibrate(follower, *robot)
        calibrate(leader, *teleop)

        move(leader, "hand shoulder_pan=0 shoulder_lift=-60 elbow_flex=60 wrist_flex=20 wrist_roll=0 gripper=30")
        arguments = [*documented("lerobot-teleoperate", places), "--teleop_time_s=15"]
        program = start("lerobot-teleoperate", *arguments, until="Teleop loop time")
        move(leader, "hand shoulder_pan=40 shoulder_lift=-30 elbow_flex=30 wrist_flex=40 wrist_roll=-50 gripper=60")
        time.sleep(2)
        assert angles(follower) == pytest.approx(angles(leader), abs=3)
        program.finish()

        front = f"{{front: {{type: twin, folder: {follower.folder}, camera: front, width: 64, height: 64, fps: 30}}, "
        places |= {"path: laptop.mp4": f"path: {video}", "{laptop:": f"{front}laptop:"}
        places |= {"data/my_recordings": tmp_path / "dataset"}
        shorter = ["--dataset.episode_time_s=6", "--dataset.reset_time_s=1"]
        arguments = [*documented("lerobot-record", places), *shorter]
        program = start("lerobot-record", *arguments, until="Recording episode 0")
        for pan in (-40, 40, -40):
            move(leader, f"hand shoulder_pan={pan} elbow_flex={30 + pan / 2}")
        program.finish()

        from lerobot.datasets import LeRobotDataset

        recorded = LeRobotDataset("local/my_recordings", root=tmp_path / "dataset", video_backend="pyav")
        assert recorded.num_episodes == 2
        states = np.array(recorded.hf_dataset["observation.state"])
        assert np.ptp(states[:, 0]) > 20
        assert recorded[0]["observation.images.front"].shape == (3, 64, 64)
        assert recorded[0]["observation.images.laptop"].shape == (3, 480, 640)

        move(follower, "hand shoulder_pan=0")
        follower.send("hand release")
        dataset = ["--dataset.repo_id=local/my_recordings", f"--dataset.root={tmp_path / 'dataset'}"]
        options = ["--dataset.episode=0", "--play_sounds=false"]
        program = start("lerobot-replay", *robot, *dataset, *options, until="Replaying episode")
        program.finish()
        last = np.array(recorded.hf_dataset["action"][recorded.meta.episodes["dataset_to_index"][0] - 1])
        assert angles(follower)[0] == pytest.approx(last[0], abs=15)  # its torque is off again, and it may sink
        print(follower.state()["wire"], leader.state()["wire"])
