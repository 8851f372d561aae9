"""Answers that come late or twice: LeRobot's bus takes them for new ones, ours recognises them."""

import time

import numpy as np
import pytest
from lerobot.motors.feetech import FeetechMotorsBus

from configs.composing import as_dict, load_config
from robot_io.arms import make_arm
from robot_io.feetech.bus import FeetechBus

POSE = {"shoulder_pan": 40, "shoulder_lift": -60, "elbow_flex": 70, "wrist_flex": 20, "wrist_roll": -50, "gripper": 30}
FAULTS = ("stall 0.03", "stall 0.08", "stall 0.12", "stall 0.3", "stall 0.5", "double 6", "double 13", "late 0.06")
TICK = 1 / 30


@pytest.fixture
def held(sound_twin):
    """The twin's limp arm, held in a pose in which no two joints read the same."""
    sound_twin.send("hand " + " ".join(f"{joint}={degrees}" for joint, degrees in POSE.items()))
    end = time.monotonic() + 60
    while not sound_twin.state()["hand_arrived"]:
        assert time.monotonic() < end
    time.sleep(0.3)
    yield sound_twin
    sound_twin.send("hand release")


@pytest.fixture(params=[FeetechMotorsBus, FeetechBus])
def bus(request, held):
    """LeRobot's bus as it is, and ours, both with the calibration of the twin and LeRobot's patience."""
    robot = make_arm(as_dict(load_config("simulate_arm", ["robot=so101", "robot.id=twin"]).robot), held)
    bus = request.param(robot.bus.port, robot.bus.motors, robot.bus.calibration)
    bus.connect(handshake=False)
    yield bus
    bus.port_handler.closePort()


def readings(bus, ticks):
    """Positions and loads of the ticks in which the servos could be read, (n, 2, 6)."""
    values = []
    for _ in range(ticks):
        start = time.monotonic()
        try:
            positions = bus.sync_read("Present_Position")
            loads = bus.sync_read("Present_Load", normalize=False)
            values.append([list(positions.values()), list(loads.values())])
        except ConnectionError:
            pass
        time.sleep(max(0.0, start + TICK - time.monotonic()))
    return np.array(values).reshape(-1, 2, len(POSE))


def test_late_answers_are_no_readings(bus, held):
    right = readings(bus, 3)[-1]
    wrong = {}
    for fault in FAULTS:
        held.send(fault)
        values = readings(bus, 15)
        held.send("clear")
        readings(bus, 3)
        wrong[fault] = int((np.abs(values - right) > [[3.0], [60]]).any(axis=(1, 2)).sum())
        assert len(readings(bus, 5)) == 5, f"it does not recover from {fault}"
    if type(bus) is FeetechBus:
        assert sum(wrong.values()) == 0, wrong
        assert bus.late_answers > 0
    else:
        assert sum(wrong.values()) > 0  # the fault that this test is for


def test_a_sound_line_gives_lerobots_values(bus):
    """Both buses read the same registers into the same units."""
    reference = FeetechMotorsBus(bus.port, bus.motors, bus.calibration)
    reference.port_handler = bus.port_handler
    reference.sync_reader.port = bus.port_handler
    for register in ("Present_Position", "Present_Load", "Present_Voltage", "Torque_Enable", "Max_Torque_Limit"):
        for normalize in (True, False):
            values = [b.sync_read(register, normalize=normalize) for b in (bus, reference)]
            assert values[0] == values[1] or register == "Present_Load"
    assert bus.read("Maximum_Acceleration", "gripper") == reference.read("Maximum_Acceleration", "gripper")
    assert bus.ping("gripper") == reference.ping("gripper") == 777
