"""Motion of the joints by the twin's servos, step by step, without a port."""

import numpy as np
import pytest

from robot_io.feetech.protocol import ErrorBit
from robot_io.feetech.registers import PWM_MODE, REGISTERS, STEP_MODE, VELOCITY_MODE, PhaseBit, decode, encode
from robot_io.twin.bare_arm import BareArm
from robot_io.twin.physics import STEPS_PER_RADIAN, ArmPhysics, Drivetrain, PositionControl
from robot_io.twin.servo import SERVO_MODELS, Firmware, Servo
from tinyvla.arms.so101 import SO101

PAN, ELBOW, GRIPPER = (SO101.joints.index(name) for name in ("shoulder_pan", "elbow_flex", "gripper"))
IDEAL = Drivetrain(latency=0.0, backlash=0.0)


def write(servo, name, value):
    servo.write(REGISTERS[name].address, encode(REGISTERS[name], value))


def read(servo, name):
    register = REGISTERS[name]
    return decode(register, servo.read(register.address, register.size))


def make_physics(drivetrain=IDEAL, mounting=(0,) * 6):
    """An arm with torque on, in a pose in which nothing touches anything."""
    servos = [Servo(number) for number in range(1, 7)]
    physics = ArmPhysics(BareArm(), servos, mounting, drivetrain)
    physics.place(np.radians([0, -60, 60, 20, 0, 20]))
    for servo in servos:
        write(servo, "Torque_Enable", 1)
        write(servo, "P_Coefficient", 16)
        write(servo, "Acceleration", 254)
    return physics


def run(physics, seconds, watch=lambda physics: None):
    values = []
    for _ in range(round(seconds / physics.timestep)):
        physics.step()
        values.append(watch(physics))
    return np.array(values)


def go(physics, joint, degrees):
    """Tell one servo to go to an angle of its joint."""
    steps = physics.control.encoder(np.full(6, np.radians(degrees)))[joint]
    write(physics.servos[joint], "Goal_Position", round(steps - physics.servos[joint].get("Homing_Offset")))


def test_a_joint_goes_where_it_is_told_and_the_rest_stays():
    physics = make_physics()
    before = np.degrees(physics.angles)
    go(physics, PAN, 40)
    run(physics, 1.5)
    expected = before.copy()
    expected[PAN] = 40
    assert np.degrees(physics.angles) == pytest.approx(expected, abs=1.0)
    assert [servo.error for servo in physics.servos] == [0] * 6


def test_without_torque_the_arm_sinks():
    physics = make_physics()
    for servo in physics.servos:
        write(servo, "Torque_Enable", 0)
    before = physics.scene.data.site("gripperframe").xpos[2]
    run(physics, 1.0)
    assert physics.scene.data.site("gripperframe").xpos[2] < before - 0.02


def test_mounting_and_homing_offset_are_what_lerobot_takes_them_for():
    """Present = actual - offset, and the servo goes by the same numbers."""
    physics = make_physics(mounting=[0, 0, 300, 0, 0, 0])
    servo = physics.servos[ELBOW]
    before = servo.position
    assert before == round(2048 + 300 + np.radians(60) * STEPS_PER_RADIAN)
    write(servo, "Homing_Offset", 301)
    assert servo.position == before - 301
    go(physics, ELBOW, 40)
    run(physics, 1.0)
    assert np.degrees(physics.angles[ELBOW]) == pytest.approx(40, abs=1)


def test_goals_beyond_the_limits_are_cut_off():
    physics = make_physics()
    write(physics.servos[PAN], "Max_Position_Limit", 2048 + 200)
    go(physics, PAN, 90)
    run(physics, 1.5)
    assert physics.servos[PAN].position == pytest.approx(2248, abs=4)


def test_goal_velocity_and_acceleration_limit_the_motion():
    physics = make_physics()
    speed = lambda p: abs(p.data.qvel[PAN]) * STEPS_PER_RADIAN  # noqa: E731
    write(physics.servos[PAN], "Goal_Velocity", 300)
    go(physics, PAN, 60)
    assert np.median(run(physics, 1.0, speed)) == pytest.approx(300, rel=0.05)
    write(physics.servos[PAN], "Goal_Velocity", 0)
    write(physics.servos[PAN], "Acceleration", 10)  # 1000 steps/s²
    run(physics, 2.0)
    go(physics, PAN, 0)
    slow = run(physics, 0.3, speed)
    assert slow[-1] == pytest.approx(300, rel=0.2)
    write(physics.servos[PAN], "Acceleration", 0)
    go(physics, PAN, -60)
    assert run(physics, 0.4, speed).max() > 1500


def test_a_goal_takes_the_latency_to_show():
    def first_motion(latency):
        control = PositionControl([Servo(1)], [0], Drivetrain(latency=latency, backlash=0.0), 0.002)
        write(control.servos[0], "Torque_Enable", 1)
        control.step(np.zeros(1))
        write(control.servos[0], "Goal_Position", 3000)
        return next(step for step in range(100) if abs(control.step(np.zeros(1))[0]) > 0.01)

    assert first_motion(0.02) - first_motion(0.0) == 10


def test_backlash_and_dead_zone_leave_small_goals_undone():
    def settle(drivetrain, dead_zone, steps):
        control = PositionControl([Servo(1)], [0], drivetrain, 0.002)
        servo = control.servos[0]
        write(servo, "Torque_Enable", 1)
        write(servo, "CW_Dead_Zone", dead_zone)
        write(servo, "CCW_Dead_Zone", dead_zone)
        servo.measurements.position = 2048.0
        control.step(np.zeros(1))
        write(servo, "Goal_Position", 2048 + steps)
        return [control.step(np.zeros(1))[0] for _ in range(200)][-1]

    backlash = Drivetrain(latency=0.0, backlash=10 / STEPS_PER_RADIAN)
    assert settle(IDEAL, 0, 8) == pytest.approx(8 / STEPS_PER_RADIAN)
    assert settle(IDEAL, 3, 3) == 0
    assert settle(backlash, 0, 4) == 0
    assert settle(backlash, 0, 8) == pytest.approx(3 / STEPS_PER_RADIAN)


def test_a_pushed_joint_overloads_and_gives_way():
    physics = make_physics()
    physics.push(ELBOW, 3.2)
    load = run(physics, 1.9, lambda p: p.load[ELBOW])
    assert abs(load[-1]) == pytest.approx(1.0)
    assert physics.servos[ELBOW].error == 0
    run(physics, 0.3)
    assert physics.servos[ELBOW].error == ErrorBit.OVERLOAD
    assert abs(physics.load[ELBOW]) == pytest.approx(0.2, abs=0.02)


def test_a_hot_servo_lets_go_and_a_jammed_joint_stays():
    physics = make_physics()
    physics.servos[ELBOW].heated_to = 90.0
    run(physics, 0.05)
    assert physics.servos[ELBOW].error == ErrorBit.OVERHEAT
    assert physics.control.torque_limit[ELBOW] == 0
    physics.jam(PAN)
    go(physics, PAN, 40)
    run(physics, 0.5)
    assert np.degrees(physics.angles[PAN]) == pytest.approx(0, abs=1)
    physics.jam(PAN, False)
    run(physics, 1.0)
    assert np.degrees(physics.angles[PAN]) == pytest.approx(40, abs=1)


def test_the_hand_moves_what_has_no_torque_through_its_whole_range():
    physics = make_physics()
    for servo in physics.servos:
        write(servo, "Torque_Enable", 0)
    physics.sweep()
    values = run(physics, 10.0, lambda p: p.angles.copy())
    assert physics.hand_arrived
    assert values.min(axis=0) == pytest.approx(physics.limits[:, 0], abs=0.06)
    assert values.max(axis=0) == pytest.approx(physics.limits[:, 1], abs=0.06)
    assert physics.angles == pytest.approx(physics.limits.mean(axis=1), abs=0.05)


def test_a_hand_is_weaker_than_a_servo():
    physics = make_physics()
    physics.hold({"shoulder_pan": 0.8})
    run(physics, 1.5)
    assert np.degrees(physics.angles[PAN]) == pytest.approx(0, abs=2)


def test_the_same_commands_give_the_same_motion():
    def play():
        physics = make_physics(Drivetrain())
        for degrees in (30, -30, 10):
            go(physics, PAN, degrees)
            go(physics, GRIPPER, 30 + degrees)
            run(physics, 0.2)
        return physics.data.qpos.copy()

    assert (play() == play()).all()


def steps_of(degrees):
    return round(np.radians(degrees) * STEPS_PER_RADIAN)


def test_a_reversed_servo_goes_where_its_goal_is_and_a_half_reversed_one_away_from_it():
    physics = make_physics()
    servo = physics.servos[PAN]
    write(servo, "Phase", 12 + 129)
    assert servo.position == 2048
    write(servo, "Goal_Position", 2048 + steps_of(40))
    run(physics, 1.5)
    assert np.degrees(physics.angles[PAN]) == pytest.approx(-40, abs=1)
    assert servo.position == pytest.approx(2048 + steps_of(40), abs=12)
    for half in (PhaseBit.MOTOR_REVERSED, PhaseBit.SENSOR_REVERSED):
        physics = make_physics()
        servo = physics.servos[PAN]
        write(servo, "Phase", 12 + half)
        write(servo, "Goal_Position", 2048 + 30)
        run(physics, 2.5)
        away = servo.position - 2048
        assert away < -steps_of(90)  # against its stop
        assert servo.error == ErrorBit.OVERLOAD


def test_the_pwm_mode_turns_without_control_and_stops_at_the_limit_of_speed():
    physics = make_physics()
    servo = physics.servos[PAN]
    write(servo, "Operating_Mode", PWM_MODE)
    run(physics, 0.3)
    assert np.degrees(physics.angles[PAN]) == pytest.approx(0, abs=0.5)  # it does not hold, but nothing pulls
    write(servo, "Goal_Time", -150)
    slow = run(physics, 0.3, lambda p: p.speeds[PAN] * STEPS_PER_RADIAN)[-1]
    write(servo, "Goal_Time", -300)
    speed = run(physics, 0.3, lambda p: p.speeds[PAN] * STEPS_PER_RADIAN)
    assert -0.3 * servo.model.fastest < speed[-1] < 1.8 * slow < 0  # the joint has friction of its own
    physics.sense()
    assert read(servo, "Present_Load") == pytest.approx(-300, abs=3)
    run(physics, 3.0)
    assert np.degrees(physics.angles[PAN]) == pytest.approx(np.degrees(physics.limits[PAN, 0]), abs=2)
    assert physics.load[PAN] == pytest.approx(-0.3, abs=0.01)  # against the stop
    write(servo, "Goal_Time", 0)
    write(servo, "Operating_Mode", 0)
    go(physics, PAN, 20)
    run(physics, 2.0)
    assert np.degrees(physics.angles[PAN]) == pytest.approx(20, abs=1)


def test_the_velocity_mode_turns_back_at_once_from_a_stop():
    physics = make_physics()
    servo = physics.servos[PAN]
    write(servo, "Operating_Mode", VELOCITY_MODE)
    write(servo, "Goal_Velocity", 1000)
    speed = run(physics, 1.0, lambda p: p.speeds[PAN] * STEPS_PER_RADIAN)
    assert np.median(speed) == pytest.approx(1000, rel=0.05)
    run(physics, 1.5)
    assert np.degrees(physics.angles[PAN]) == pytest.approx(np.degrees(physics.limits[PAN, 1]), abs=2)
    write(servo, "Goal_Velocity", -1000)
    before = physics.angles[PAN]
    run(physics, 0.5)
    assert before - physics.angles[PAN] > 0.3
    write(servo, "Goal_Velocity", 0)
    run(physics, 0.3)
    assert physics.speeds[PAN] == pytest.approx(0, abs=0.05)


def test_the_step_mode_turns_by_steps():
    physics = make_physics()
    servo = physics.servos[PAN]
    for limit in ("Min_Position_Limit", "Max_Position_Limit"):
        write(servo, limit, 0)
    write(servo, "Operating_Mode", STEP_MODE)
    for _ in range(2):
        write(servo, "Goal_Position", steps_of(20))
    run(physics, 1.5)
    assert np.degrees(physics.angles[PAN]) == pytest.approx(40, abs=1)
    write(servo, "Goal_Position", -steps_of(60))
    run(physics, 1.5)
    assert np.degrees(physics.angles[PAN]) == pytest.approx(-20, abs=1)


def test_without_goal_follows_an_arm_goes_to_its_old_goal_when_torque_comes_on():
    def move(follows):
        servos = [Servo(number, firmware=Firmware(goal_follows=follows)) for number in range(1, 7)]
        physics = ArmPhysics(BareArm(), servos, (0,) * 6, IDEAL)
        physics.place(np.radians([0, -60, 60, 20, 0, 20]))
        write(servos[PAN], "Goal_Position", 2048 + steps_of(45))
        for servo in servos:
            write(servo, "Acceleration", 254)
        write(servos[PAN], "Torque_Enable", 1)
        run(physics, 1.5)
        return np.degrees(physics.angles[PAN])

    assert move(True) == pytest.approx(0, abs=2)
    assert move(False) == pytest.approx(45, abs=2)


def test_servos_of_12_volts_have_their_supply_and_speed():
    servos = [Servo(number, SERVO_MODELS["C018"]) for number in range(1, 7)]
    physics = ArmPhysics(BareArm(), servos, (0,) * 6, IDEAL)
    physics.place(np.radians([0, -60, 60, 20, 0, 20]))
    for servo in servos:
        write(servo, "Torque_Enable", 1)
    assert physics.supply == 12.0
    run(physics, 0.1)
    assert [servo.error for servo in servos] == [0] * 6
    go(physics, PAN, 90)
    assert run(physics, 1.0, lambda p: p.speeds[PAN] * STEPS_PER_RADIAN).max() < 3072 * 1.05
    physics.power_sag()
    run(physics, 0.1)
    assert servos[PAN].error == ErrorBit.VOLTAGE
    physics.power_sag(False)
    run(physics, 0.1)
    assert servos[PAN].error == 0
