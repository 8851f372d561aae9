"""LeRobot's own SO-101 on twins with other servos: 12 V, another direction, counted turns, an overload that stays."""

import time

import numpy as np
import pytest
from lerobot.motors import motors_bus
from lerobot.motors.feetech import FeetechMotorsBus

from robot_io.arms import make_arm
from robot_io.deployment.arm_session import RobotArm
from robot_io.feetech import FeetechServos
from robot_io.feetech.guard import let_go
from robot_io.feetech.registers import PhaseBit
from robot_io.twin import TwinSettings, start_twin
from robot_io.twin.servo import SERVO_MODELS, Firmware, ServoModel
from tinyvla.errors import UserError

pytestmark = pytest.mark.usefixtures("patient")

PATIENCE = 60  # seconds
MOUNTING = (-38, 112, -67, 25, 301, -140)
REVERSED = 12 + PhaseBit.MOTOR_REVERSED + PhaseBit.SENSOR_REVERSED
READY = "hand shoulder_pan=0 shoulder_lift=-60 elbow_flex=60 wrist_flex=20 wrist_roll=0 gripper=30"


def twin_of(**settings):
    return start_twin(TwinSettings(mounting=MOUNTING, **settings), in_thread=True)


def our_arm(control, robot_id="twin"):
    return make_arm({"type": "so101_follower", "id": robot_id, "cameras": None}, control)


def lerobot_arm(control, robot_id="twin"):
    """The arm with LeRobot's own bus."""
    arm = our_arm(control, robot_id)
    bus = arm.bus
    arm.bus = FeetechMotorsBus(bus.port, bus.motors, bus.calibration)
    return arm


def angle(control, joint):
    return control.state()["joints"][joint]["angle"]


def wait_until(control, condition):
    deadline = time.monotonic() + PATIENCE
    while not condition(control.state()):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def move(arm, control, joint, degrees):
    """Send one joint to an angle of LeRobot's in small steps, as a program does; returns the joint's true angle."""
    start = arm.get_observation()
    for share in np.linspace(0, 1, 15):
        goal = start[f"{joint}.pos"] + share * (degrees - start[f"{joint}.pos"])
        arm.send_action(start | {f"{joint}.pos": goal})
        time.sleep(0.03)
    wait_until(control, lambda state: abs(state["joints"][joint]["speed"]) < 1)
    assert arm.get_observation()[f"{joint}.pos"] == pytest.approx(degrees, abs=3)
    return angle(control, joint)


def calibrate(arm, control, monkeypatch):
    """LeRobot's calibration, with a person who moves the arm when LeRobot asks for it."""

    def person(prompt=""):
        control.send("hand middle" if "middle" in prompt else "hand sweep")
        if "middle" in prompt:
            wait_until(control, lambda state: state["hand_arrived"])
        return "c"

    def swept():
        if not sweeping:
            sweeping.append(person())
        return control.state()["hand_arrived"]

    sweeping: list[str] = []
    monkeypatch.setattr("builtins.input", person)
    monkeypatch.setattr(motors_bus, "enter_pressed", swept)
    monkeypatch.setattr(motors_bus, "move_cursor_up", lambda lines: None)
    arm.bus.connect()
    try:
        arm.calibrate()
    finally:
        control.send("hand release")
        arm.bus.disconnect()


def test_twelve_volt_servos_connect_and_move():
    with twin_of(servo=SERVO_MODELS["C018"]) as control:
        arm = lerobot_arm(control)
        arm.connect(calibrate=False)
        assert arm.bus.read("Present_Voltage", "elbow_flex", normalize=False) in range(117, 121)
        assert arm.bus.read("Max_Voltage_Limit", "elbow_flex", normalize=False) == 140
        assert move(arm, control, "shoulder_pan", 30) == pytest.approx(30, abs=3)
        arm.disconnect()


@pytest.mark.parametrize("supply", [12.0, 3.9])
def test_lerobot_does_not_find_servos_with_the_wrong_supply(supply):
    with twin_of(servo=ServoModel(supply=supply)) as control:
        arm = lerobot_arm(control)
        with pytest.raises(RuntimeError, match="Missing motor IDs"):
            arm.connect(calibrate=False)


@pytest.mark.slow
def test_a_reversed_joint_is_calibrated_and_runs_the_other_way(tmp_path, monkeypatch):
    phase = (12, 12, REVERSED, 12, 12, 12)
    with twin_of(calibrated=False, phase=phase) as control:
        arm = make_arm(
            {"type": "so101_follower", "id": "me", "port": control.port, "calibration_dir": tmp_path, "cameras": None}
        )
        calibrate(arm, control, monkeypatch)
        entry = arm.calibration["elbow_flex"]
        assert entry.drive_mode == 0  # LeRobot does not notice
        assert 1500 < entry.range_max - entry.range_min < 2600
        control.send(READY)
        wait_until(control, lambda state: state["hand_arrived"])
        arm.connect(calibrate=False)
        control.send("hand release")
        assert move(arm, control, "elbow_flex", -50) == pytest.approx(50, abs=4)
        assert arm.bus.read("Phase", "elbow_flex", normalize=False) == REVERSED
        arm.disconnect()


def test_the_twins_own_calibration_of_a_reversed_joint():
    with twin_of(phase=(12, 12, 12, 12, 12, REVERSED)) as control, twin_of() as other:
        arms = [lerobot_arm(control), lerobot_arm(other)]
        openings = []
        for arm in arms:
            arm.connect(calibrate=False)
            openings.append(arm.get_observation()["gripper.pos"])
        assert openings[0] == pytest.approx(100 - openings[1], abs=1)
        assert move(arms[0], control, "gripper", 40) == pytest.approx(move(arms[1], other, "gripper", 60), abs=3)
        for arm in arms:
            arm.disconnect()


@pytest.mark.slow
def test_counted_turns_break_lerobots_calibration_until_it_has_connected_once(tmp_path, monkeypatch):
    phase = (12, 12, 12, 12, 12 + PhaseBit.FULL_ANGLE, 12)
    far = (0, 0, 0, 0, 2040, 0)  # the sensor passes its end near the middle of the joint
    with start_twin(TwinSettings(calibrated=False, phase=phase, mounting=far), in_thread=True) as control:
        robot = {"type": "so101_follower", "id": "me", "port": control.port, "calibration_dir": tmp_path}
        arm = make_arm(robot | {"cameras": None})
        control.send("hand wrist_roll=60")
        wait_until(control, lambda state: state["hand_arrived"])
        arm.bus.connect()
        assert arm.bus.read("Present_Position", "wrist_roll", normalize=False) > 4095
        arm.bus.reset_calibration()
        with pytest.raises(ValueError, match="exceeds 2047"):  # huggingface/lerobot issue 1296
            arm.bus.set_half_turn_homings()
        arm.bus.disable_torque()
        arm.bus.configure_motors()
        assert arm.bus.read("Phase", "wrist_roll", normalize=False) == 12
        assert arm.bus.read("Present_Position", "wrist_roll", normalize=False) < 4096
        arm.bus.set_half_turn_homings()
        arm.bus.disconnect()
        calibrate(arm, control, monkeypatch)
        arm.connect(calibrate=False)
        arm.disconnect()


@pytest.mark.parametrize("latched", [True, False])
def test_an_overload_refuses_lerobot_until_the_power_was_off(latched, switch_off_and_on):
    with twin_of(firmware=Firmware(overload_latched=latched)) as control:
        arm = lerobot_arm(control)
        arm.connect(calibrate=False)
        arm.bus.write("Protection_Time", "elbow_flex", 30, normalize=False)
        control.send("stuck elbow_flex")
        arm.send_action(arm.get_observation() | {"elbow_flex.pos": 40.0})
        wait_until(control, lambda state: state["joints"]["elbow_flex"]["error"] == 32)
        control.send("clear")
        if not latched:
            arm.disconnect()
            arm.connect(calibrate=False)
            arm.disconnect()
            return
        with pytest.raises(RuntimeError, match="Failed to write 'Torque_Enable' on id_=3 with '0' after 6 tries"):
            arm.disconnect()
        states = control.state()["joints"]
        assert [joint["torque"] for joint in states.values()] == [0, 0, 0, 1, 1, 0.5]  # LeRobot stops at the failure
        arm.bus.port_handler.closePort()
        for _ in range(2):
            with pytest.raises(RuntimeError, match="Missing motor IDs"):
                lerobot_arm(control).connect(calibrate=False)
        switch_off_and_on(control)
        arm = lerobot_arm(control)
        arm.connect(calibrate=False)
        assert move(arm, control, "elbow_flex", 80) == pytest.approx(80, abs=4)
        arm.disconnect()


@pytest.mark.parametrize("follows", [True, False])
def test_an_arm_with_an_old_goal_stays_when_its_torque_comes_on(follows):
    with twin_of(firmware=Firmware(goal_follows=follows)) as control:
        control.send(READY)
        wait_until(control, lambda state: state["hand_arrived"])
        arm = our_arm(control)
        arm.connect(calibrate=False)
        control.send("hand release")
        time.sleep(1.5)
        assert abs(angle(control, "shoulder_pan")) < 3  # the goal after a start is 157 degrees away
        arm.disconnect()


@pytest.mark.parametrize("enables", [True, False])
def test_an_arm_that_the_guard_has_let_go_is_sent_no_goal(enables):
    with twin_of(firmware=Firmware(goal_enables_torque=enables)) as control:
        arm = our_arm(control)
        arm.connect(calibrate=False)
        robot = RobotArm(arm, 0.5, FeetechServos(arm.bus))
        assert let_go(control.port, range(1, 7)) == []
        time.sleep(0.2)
        with pytest.raises(UserError, match="went off by itself"):
            robot.read_servos()
        robot.send_action(dict.fromkeys(arm.action_features, 0.0))
        time.sleep(0.3)
        assert {joint["torque"] for joint in control.state()["joints"].values()} == {0}
        arm.disconnect()
