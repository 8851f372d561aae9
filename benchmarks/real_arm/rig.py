"""Test rig of the arm benchmarks: a twin behind its port, a policy that keeps all joints moving, and the true state of
the simulated arm, independent of its servos' answers."""

import contextlib
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

import envs.rendering  # noqa: F401  selects MuJoCo's renderer, here and in the twin
from benchmarks.random_policy import TINY, write_random_policy
from configs.composing import as_dict, load_config
from envs.so101.twin import TwinScene
from policies import AsynchronousRunner, load_checkpoint
from policies.asynchronous import Chunk
from robot_io.arms import make_arm, with_twin_cameras
from robot_io.deployment import Deployment
from robot_io.feetech.guard import let_go
from robot_io.recording import Recorder
from robot_io.safety import SafetyLayer, SafetyLimits
from robot_io.twin import TwinControl, TwinSettings, start_twin
from tinyvla.arms.so101 import SO101
from tinyvla.machine import count_cores

RATE = 30.0
# Range of state and actions of the policy, in LeRobot's units.
LOW, HIGH = (-20.0, -70.0, 10.0, 60.0, -20.0, 10.0), (20.0, -20.0, 60.0, 90.0, 30.0, 70.0)
# Middle and amplitude of the wave in LeRobot's units; the joints are out of phase.
_MIDDLE, _SWING = np.array([0.0, -60, 45, 70, 0, 45]), np.array([20.0, 10, 10, 15, 20, 20])
_WAVE_HZ = 0.3
_SAMPLE_HZ = 60
PATIENCE_S, _SETTLE_S = 60.0, 0.3


def wave(steps: np.ndarray) -> np.ndarray:
    """Poses (n, 6) at control steps (n,)."""
    angles = 2 * np.pi * (_WAVE_HZ * steps[:, None] / RATE + np.arange(6) / 6)
    return _MIDDLE + _SWING * np.sin(angles)


START = wave(np.zeros(1))[0].tolist()
# Least and greatest true angle of each joint in the wave, degrees.
LOWEST, HIGHEST = np.degrees([SO101.to_radians(_MIDDLE - _SWING), SO101.to_radians(_MIDDLE + _SWING)])


class Waving(AsynchronousRunner):
    """Runner that has the policy compute its chunks and replaces them by a wave.

    trouble: fault of the next chunks: "hangs", until `wake`, or "nan".
    """

    trouble = ""

    def __init__(self, *arguments: Any) -> None:
        self._awake = threading.Event()
        super().__init__(*arguments)

    def wake(self) -> None:
        """End all trouble."""
        self.trouble = ""
        self._awake.set()

    def _predict(self, step: int, observation: Any, plan: Chunk | None, delay: int) -> Chunk:
        chunk = super()._predict(step, observation, plan, delay)
        if self.trouble == "nan":
            self._unnormalise(torch.full_like(chunk.normalised, torch.nan))
        if self.trouble == "hangs":
            self._awake.clear()
            self._awake.wait()
        actions = wave(step + np.arange(len(chunk.actions))).astype(np.float32)
        return chunk._replace(actions=actions)


class Truth:
    """Sampler of a twin's true state, in a thread, as a context manager.

    times: monotonic seconds, (n,). speeds: degrees/s, (n, 6). torques: shares that the servos may use, (n, 6).
    """

    def __init__(self, folder: Path) -> None:
        self._twin = TwinControl(folder)
        self._samples: list[tuple[float, list[float], list[float]]] = []
        self._angles: list[list[float]] = []
        self._leaving = threading.Event()
        self._thread = threading.Thread(target=self._run, name="truth", daemon=True)

    def __enter__(self) -> "Truth":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._leaving.set()
        self._thread.join()
        self._twin.close()

    @property
    def newest(self) -> tuple[float, list[float], list[float]]:
        while not self._samples:
            time.sleep(0.01)
        return self._samples[-1]

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        times, speeds, torques = zip(*self._samples, strict=True)
        return np.array(times), np.array(speeds), np.array(torques)

    def angles(self) -> tuple[np.ndarray, np.ndarray]:
        """Times in monotonic seconds, (n,), and true angles of the joints in degrees, (n, 6)."""
        angles = np.array(self._angles[: len(self._samples)])
        return np.array([sample[0] for sample in self._samples[: len(angles)]]), angles

    def _run(self) -> None:
        while not self._leaving.wait(1 / _SAMPLE_HZ):
            joints = self._twin.state()["joints"].values()
            self._angles.append([joint["angle"] for joint in joints])
            sample = ([joint["speed"] for joint in joints], [joint["torque"] for joint in joints])
            self._samples.append((time.monotonic(), *sample))


class Rig:
    """A twin in the scene of the tasks, in its own process, with everything that a run on it needs."""

    def __init__(self, twin: TwinControl, robot: dict[str, Any], safety: dict[str, Any], folder: Path) -> None:
        self.twin, self.robot, self.safety, self.folder = twin, robot, safety, folder
        self.checkpoint = folder / "policy"

    def hold(self) -> None:
        """End all faults and hold the limp arm where the wave begins, as by hand, until `let_go`."""
        self.twin.send("clear")
        self.twin.send("attach all")
        for joint in SO101.joints:  # power cycle: resets what garbage on the line may have changed
            self.twin.send(f"brown_out {joint}")
        let_go(self.twin.port, range(1, 7))  # returns once they have started
        angles = np.degrees(SO101.to_radians(np.array(START)))
        goals = [f"{joint}={angle}" for joint, angle in zip(SO101.joints, angles, strict=True)]
        self.twin.send("hand " + " ".join(goals))
        end = time.monotonic() + PATIENCE_S
        while not self.twin.state()["hand_arrived"]:
            if time.monotonic() > end:
                raise RuntimeError("the arm does not reach the start of the wave")
            time.sleep(0.05)
        time.sleep(_SETTLE_S)

    def let_go(self) -> None:
        """Release the arm, which now has torque."""
        self.twin.send("hand release")

    def deployment(self, runner: AsynchronousRunner, *watchers: Any, **robot: Any) -> Deployment:
        """Deployment on the twin; `robot`: changes to its section of the configuration."""
        arm = make_arm({**self.robot, **robot}, None if robot else self.twin)
        return Deployment(
            arm, runner, SafetyLayer(SafetyLimits.decode(self.safety)), list(watchers), approach_speed=0.6
        )

    def recorder(self, root: Path, runner: AsynchronousRunner) -> Recorder:
        joints = list(self.safety["joints"])
        return Recorder(root, joints, runner.cameras, RATE, "so_follower")

    def section(self, **changes: Any) -> dict[str, Any]:
        """Robot section of the configuration for an arm that another process has started."""
        connection = {"port": self.twin.port, "calibration_dir": str(self.twin.calibration_dir)}
        cameras = {
            name: {**camera, "camera": name, "folder": str(self.twin.folder)}
            for name, camera in self.robot["cameras"].items()
        }
        return {**connection, "cameras": cameras, **changes}


@contextlib.contextmanager
def start_rig(**twin_settings: Any) -> Iterator[Rig]:
    """Rig with a policy of random weights in `rig.checkpoint`; twin_settings: changes to `robot.twin`."""
    cfg = load_config("deploy", ["checkpoint=none", "robot=twin"])
    with tempfile.TemporaryDirectory() as folder:
        write_random_policy(Path(folder) / "policy", {"front": 32, "wrist": 32}, LOW, HIGH, TINY)
        robot = as_dict(cfg.robot)
        robot = with_twin_cameras(
            robot | {"twin": robot["twin"] | twin_settings}, {"front": (32, 32), "wrist": (32, 32)}
        )
        with start_twin(TwinSettings.from_config(robot, scene=TwinScene)) as twin:
            yield Rig(twin, robot, as_dict(cfg.safety), Path(folder))


@contextlib.contextmanager
def waving(rig: Rig) -> Iterator[Waving]:
    """The rig's policy as a `Waving` runner."""
    torch.set_num_threads(max(1, count_cores() - 1))  # as for deploy.py
    runner = Waving(*load_checkpoint(rig.checkpoint, "cpu"))
    yield runner
    runner.wake()
    runner.close()
