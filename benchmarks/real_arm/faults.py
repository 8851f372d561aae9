"""Faults of fault_table.py: their causes, the safe state that must follow, and its deadline.

A fault strikes a run on the twin through the serial port; the state of the arm is read from the simulation. Joints are
safe while they stand still or have no torque.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.machine import ROOT
from benchmarks.real_arm.rig import START, Rig, Waving
from benchmarks.real_arm.served_policy import Served

type Strike = Callable[[Rig, Waving | Served], object]

STILL, LIMITED, LIMP, ON_PATH = "still", "torque limited", "torque off", "on its path"


@dataclass(frozen=True)
class Fault:
    """A fault and its expected outcome.

    Args:
        about: description for the table.
        safe: safe state: STILL (no joint with torque moves), LIMITED (no servo uses more than half its torque), LIMP,
            ON_PATH (every joint is where the policy may send it).
        bound_s: deadline of the safe state in seconds.
        strike: causes the fault, from the rig and the runner; None: it is there from the start (see `around`).
        ends: pattern of the line that ends the run; None: the run continues.
        keeps_torque: number of servos that cannot be reached to switch their torque off.
        rest_s: seconds that a run which continues is watched.
        around: context of the run, which gives changes to the robot section of the configuration.
    """

    about: str
    safe: str
    bound_s: float
    strike: Strike | None = None
    ends: str | None = None
    keeps_torque: int = 0
    rest_s: float = 3.0
    around: Callable[[Rig], contextlib.AbstractContextManager[dict[str, Any]]] | None = None


def on_twin(command: str) -> Strike:
    return lambda rig, _: rig.twin.send(command)


def in_policy(trouble: str) -> Strike:
    return lambda _, runner: setattr(runner, "trouble", trouble)


def _bug(rig: Rig, runner: Waving | Served) -> None:
    raise ZeroDivisionError("a bug")


# --- faults before the first motion ---


@contextlib.contextmanager
def other_arm(rig: Rig) -> Iterator[dict[str, Any]]:
    folder = rig.folder / "calibration"
    folder.mkdir(exist_ok=True)
    calibration = json.loads((rig.twin.calibration_dir / f"{rig.robot['id']}.json").read_text())
    calibration["elbow_flex"]["homing_offset"] += 40
    (folder / "other.json").write_text(json.dumps(calibration))
    yield rig.section(calibration_dir=str(folder), id="other")


@contextlib.contextmanager
def no_such_port(rig: Rig) -> Iterator[dict[str, Any]]:
    yield rig.section(port="/dev/no-such-port")


@contextlib.contextmanager
def another_port(rig: Rig) -> Iterator[dict[str, Any]]:
    ends = os.openpty()
    try:
        yield rig.section(port=os.ttyname(ends[1]))
    finally:
        for end in ends:
            os.close(end)


@contextlib.contextmanager
def missing_servo(rig: Rig) -> Iterator[dict[str, Any]]:
    rig.twin.send("attach shoulder_pan shoulder_lift elbow_flex wrist_roll gripper")
    yield rig.section()


@contextlib.contextmanager
def no_permission(rig: Rig) -> Iterator[dict[str, Any]]:
    """Take the permission for the port away; root becomes an unprivileged user meanwhile."""
    terminal = os.path.realpath(rig.twin.port)
    mode, unprivileged = os.stat(terminal).st_mode, 65534
    os.chmod(terminal, 0)
    for folder in (rig.twin.folder, rig.folder):
        os.chmod(folder, 0o755)
    root = os.geteuid() == 0
    if root:
        os.setresuid(unprivileged, unprivileged, 0)
    try:
        yield rig.section()
    finally:
        if root:
            os.setresuid(0, 0, 0)
        for folder in (rig.twin.folder, rig.folder):
            os.chmod(folder, 0o700)
        os.chmod(terminal, mode)


# --- faults of the process ---


def kill(number: int) -> Callable[[subprocess.Popen], object]:
    return lambda process: process.send_signal(number)


def command(rig: Rig, run_dir: Path) -> list[str]:
    """Command line of deploy.py for an arm that another process has started."""
    section = rig.section()
    cameras = {
        name: {key: camera[key] for key in ("type", "camera", "folder", "width", "height", "fps")}
        for name, camera in section["cameras"].items()
    }
    settings = {
        "checkpoint": rig.checkpoint,
        "robot": "so101",
        "robot.id": rig.robot["id"],
        "robot.port": section["port"],
        "robot.calibration_dir": section["calibration_dir"],
        "robot.cameras": json.dumps(cameras).replace('"', ""),
        "instruction": "wave",
        "start_pose": json.dumps(START),
        "approach_speed": 0.6,
        "device": "cpu",
        "run_dir": run_dir,
    }
    return [sys.executable, str(ROOT / "deploy.py"), *(f"{name}={value}" for name, value in settings.items())]


@contextlib.contextmanager
def deploying(rig: Rig, run_dir: Path) -> Iterator[subprocess.Popen]:
    """Process of deploy.py from its first episode on; it is killed at the end if it has not ended."""
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command(rig, run_dir), cwd=rig.folder, start_new_session=True, **pipes)  # type: ignore[call-overload]
    try:
        if not any(line.startswith("episode") for line in process.stdout):
            raise RuntimeError(f"deploy.py did not begin: {process.stderr.read()}")
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGCONT)
            process.kill()
        process.communicate()


FAULTS = {
    "drop": Fault("one byte in ten gets lost", STILL, 1.0, on_twin("drop 0.1"), "does not answer"),
    "corrupt": Fault("one byte in ten is corrupted", STILL, 1.0, on_twin("corrupt 0.1"), "does not answer"),
    "stall": Fault("bytes from the arm are held back for 0.3 s", ON_PATH, 0.5, on_twin("stall 0.3")),
    "double": Fault("twelve answers come twice", ON_PATH, 0.5, on_twin("double 12")),
    "late": Fault("all answers come 0.1 s late", STILL, 1.0, on_twin("late 0.1"), "does not answer"),
    "wrong_id": Fault(
        "a servo answers with another's id", STILL, 1.0, on_twin("wrong_id elbow_flex"), "elbow_flex answers as id 4"
    ),
    "error_byte": Fault("a servo reports an overload", ON_PATH, 0.5, on_twin("error_byte elbow_flex 32")),
    "silent": Fault("a servo falls silent", STILL, 1.0, on_twin("silent elbow_flex"), "does not answer", 1),
    "overheat": Fault("a servo is at 65 °C", STILL, 1.2, on_twin("overheat elbow_flex 65")),
    "overheat_off": Fault("a servo is at 90 °C and gives up", STILL, 1.2, on_twin("overheat elbow_flex 90")),
    "overload": Fault("something pushes with 3.2 N·m", LIMITED, 1.2, on_twin("overload elbow_flex 3.2")),
    "stuck": Fault("a joint is stuck", LIMITED, 2.5, on_twin("stuck shoulder_pan")),
    "unplug": Fault("the USB cable is pulled", STILL, 1.0, on_twin("unplug"), "put the USB cable back|failed", 6),
    "unplug_back": Fault("it is pulled and put back", STILL, 1.0, on_twin("unplug for 1.5"), "USB cable back|failed"),
    "brown_out": Fault("a servo starts anew", STILL, 1.0, on_twin("brown_out elbow_flex"), "went off by itself"),
    "camera_stops": Fault("a camera stops", STILL, 1.2, on_twin("camera_stops front"), "a camera failed: .* old"),
    "camera_repeats": Fault(
        "a camera repeats an image",
        STILL,
        2.0,
        on_twin("camera_repeats front"),
        "a camera failed: .* same image",
    ),
    "camera_late": Fault(
        "images come 1 s late", STILL, 1.2, on_twin("camera_late front 1.0"), "a camera failed: .* old"
    ),
    "policy_hangs": Fault("the policy hangs", STILL, 1.2, in_policy("hangs"), "put out nothing new", rest_s=8.0),
    "server_hangs": Fault(
        "the policy server hangs", STILL, 1.2, in_policy("hangs"), "put out nothing new|does not answer", rest_s=15.0
    ),
    "server_killed": Fault(
        "the policy server is killed", STILL, 1.2, in_policy("killed"), "does not answer", rest_s=15.0
    ),
    "server_garbage": Fault(
        "the policy server answers random bytes",
        STILL,
        1.2,
        in_policy("garbage"),
        "does not answer|nonsense|is not a policy server|refuses|put out nothing new",
        rest_s=15.0,
    ),
    "policy_nan": Fault("the policy puts out NaN", STILL, 1.0, in_policy("nan"), "non-finite action"),
    "bug": Fault("an error in the program", STILL, 0.6, _bug, "ZeroDivisionError"),
    "calibration": Fault("another arm's calibration", LIMP, 0, ends="it is another arm's", around=other_arm),
    "missing_id": Fault("a servo's id is missing", LIMP, 0, ends=r"wrist_flex \(id 4\) does not", around=missing_servo),
    "two_of_one_id": Fault("two servos have one id", LIMP, 0, ends="two servos answer as"),
    "wrong_port": Fault("a port that does not exist", LIMP, 0, ends="there is no port", around=no_such_port),
    "empty_port": Fault("a port without servos", LIMP, 0, ends="no servo answers", around=another_port),
    "permission": Fault("no permission for the port", LIMP, 0, ends="no permission to use", around=no_permission),
}
TWIN_OF = {"two_of_one_id": {"ids": [1, 2, 3, 3, 5, 6]}}  # faults with changed settings of the twin

SERVED = {"server_hangs", "server_killed", "server_garbage"}  # faults of a policy on a server

# Signals that end or stop the process of deploy.py; all servos are limp afterwards.
PROCESS_FAULTS = {
    "sigint": Fault("Ctrl-C", LIMP, 2.0, ends="SIGINT"),
    "sigterm": Fault("kill (SIGTERM)", LIMP, 2.0, ends="SIGTERM"),
    "sighup": Fault("the terminal is closed (SIGHUP)", LIMP, 2.0, ends="SIGHUP"),
    "sigkill": Fault("kill -9", LIMP, 2.0),
    "sigstop": Fault("the process hangs (SIGSTOP)", LIMP, 4.0),
}
SIGNALS = {
    "sigint": signal.SIGINT,
    "sigterm": signal.SIGTERM,
    "sighup": signal.SIGHUP,
    "sigkill": signal.SIGKILL,
    "sigstop": signal.SIGSTOP,
}


def wait_for_motion(truth: Any, patience_s: float = 30.0) -> None:
    """Wait until a joint with torque moves by more than 10 degrees/s."""
    end = time.monotonic() + patience_s
    while time.monotonic() < end:
        _, speeds, torques = truth.newest
        if any(abs(speed) > 10 and torque > 0 for speed, torque in zip(speeds, torques, strict=True)):
            return
        time.sleep(0.005)
    raise RuntimeError("the arm does not move")
