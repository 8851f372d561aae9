"""A guard over an arm: it lets go when the program that it guards the arm for has died or hangs, and only then."""

import subprocess
import sys
import time

import pytest
import serial

from robot_io.feetech import Guard
from robot_io.feetech.guard import let_go
from robot_io.feetech.protocol import BROADCAST, Instruction, Packet, pack

IDS, TORQUE = range(1, 7), 40
PATIENCE = 60  # seconds


@pytest.fixture
def powered(sound_twin):
    """The twin, with the torque of all servos on."""
    values = bytes(value for servo in IDS for value in (servo, 1))
    with serial.Serial(sound_twin.port, 1_000_000) as line:
        line.write(pack(Packet(BROADCAST, Instruction.SYNC_WRITE, bytes([TORQUE, 1]) + values)))
        wait_until(lambda: all(torques(sound_twin)))
    yield sound_twin
    sound_twin.send("clear")
    let_go(sound_twin.port, IDS)


def torques(twin):
    return [joint["torque"] for joint in twin.state()["joints"].values()]


def wait_until(condition):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_guard_and_a_twin_start_without_lerobot():
    """Importing LeRobot takes seconds without a guard for the arm, and most of a gigabyte."""
    names = "robot_io.feetech.guard, robot_io.twin.client, robot_io.recording.writer"
    heavy = "{name for name in ('lerobot', 'torch') if name in sys.modules}"
    result = subprocess.run(
        [sys.executable, "-c", f"import sys, {names}; print({heavy})"], capture_output=True, text=True
    )
    assert result.stdout == "set()\n", result.stderr


def test_servos_are_asked_until_they_have_let_go(powered):
    powered.send("drop 0.1")
    assert let_go(powered.port, IDS, PATIENCE) == []
    assert torques(powered) == [0] * 6
    powered.send("clear")
    powered.send("silent elbow_flex")
    assert let_go(powered.port, IDS, 0.3) == [3]
    assert let_go("/dev/no-such-port", [1], 0.1) == [1]


def test_a_port_that_is_put_back_is_used_again(powered):
    powered.send("unplug for 0.3")
    assert let_go(powered.port, IDS, PATIENCE) == []
    assert torques(powered) == [0] * 6


def test_a_program_that_dies_leaves_no_torque(powered):
    guard = Guard(powered.port, list(IDS), delay_s=0.1, silence_s=PATIENCE)
    assert all(torques(powered))
    guard._process.stdin.close()  # as its death does
    wait_until(lambda: not any(torques(powered)))
    assert guard._process.wait(PATIENCE) == 0
    guard._process.stdout.close()


def test_a_loop_that_hangs_leaves_no_torque_and_one_that_is_done_keeps_it(powered):
    with Guard(powered.port, list(IDS), delay_s=0.0, silence_s=0.3) as guard:
        time.sleep(0.5)  # nothing is being watched
        with guard.watching():
            guard.beat()
        assert all(torques(powered))
        with guard.watching():
            wait_until(lambda: not any(torques(powered)))
    assert guard._process.returncode == 0


def test_who_is_interrupted_in_the_middle_of_letting_go_is_helped(powered):
    with pytest.raises(KeyboardInterrupt), Guard(powered.port, list(IDS), 0.0, PATIENCE):
        raise KeyboardInterrupt
    wait_until(lambda: not any(torques(powered)))
