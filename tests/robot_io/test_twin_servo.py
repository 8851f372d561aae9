"""Servos of the twin against Feetech's memory table V3.6 and owners' reports, over the bus and without physics."""

import numpy as np
import pytest

from robot_io.feetech.protocol import BROADCAST, ErrorBit, Instruction, Packet, Parser
from robot_io.feetech.registers import BAUD_RATES, REGISTERS, PhaseBit, decode, encode
from robot_io.twin.bus import Bus
from robot_io.twin.physics import Drivetrain, PositionControl
from robot_io.twin.servo import SERVO_MODELS, Firmware, Measurements, Servo

FAST = BAUD_RATES[0]
DEFAULT, UNLATCHED = Firmware(), Firmware(overload_latched=False)


def ask(bus, servo_id, instruction, *parameters, baud_rate=FAST):
    """The packets that come back."""
    replies = bus.answer(Packet(servo_id, instruction, bytes(parameters)), baud_rate)
    return Parser().feed(b"".join(reply.data for reply in replies))


def write(bus, name, value, servo_id=1, instruction=Instruction.WRITE):
    """Write a register; returns the error byte of the answer."""
    register = REGISTERS[name]
    (answer,) = ask(bus, servo_id, instruction, register.address, *encode(register, value))
    return answer.code


def read(bus, name, servo_id=1):
    register = REGISTERS[name]
    (answer,) = ask(bus, servo_id, Instruction.READ, register.address, register.size)
    return decode(register, answer.parameters)


def bus_of(model="C001", firmware=DEFAULT, **registers):
    servo = Servo(1, SERVO_MODELS[model], firmware)
    for name, value in registers.items():
        servo.set(name, value)
    return Bus([servo])


def live(bus, seconds, **measurements):
    for _ in range(round(seconds / 0.02)):
        bus.servos[0].update(0.02, Measurements(**measurements))


# --- faults ---


def overloaded(firmware=DEFAULT):
    bus = bus_of(firmware=firmware)
    assert write(bus, "Torque_Enable", 1) == 0
    live(bus, 2.2, load=0.9)
    return bus


def test_every_answer_of_an_overloaded_servo_has_the_error_bit_until_it_loses_power():
    bus = overloaded()
    goal = REGISTERS["Goal_Position"].address
    answers = [
        *ask(bus, 1, Instruction.PING),
        *ask(bus, 1, Instruction.READ, goal, 2),
        *ask(bus, 1, Instruction.WRITE, goal, 0, 8),
        *ask(bus, 1, Instruction.REG_WRITE, goal, 0, 8),
        *ask(bus, 1, Instruction.ACTION),
        *ask(bus, BROADCAST, Instruction.SYNC_READ, goal, 2, 1),
        *ask(bus, 1, Instruction.RECOVERY),
        *ask(bus, 1, Instruction.RESET),
    ]
    assert [answer.code for answer in answers] == [ErrorBit.OVERLOAD] * 8
    assert [write(bus, "Torque_Enable", 0) for _ in range(3)] == [ErrorBit.OVERLOAD] * 3
    assert read(bus, "Torque_Enable") == 0  # it has obeyed
    live(bus, 60.0)
    assert write(bus, "Torque_Enable", 1) == ErrorBit.OVERLOAD
    assert bus.servos[0].torque_share == pytest.approx(0.2)
    bus.servos[0].power_up()
    assert ask(bus, 1, Instruction.PING) == [Packet(1, 0)]
    write(bus, "Torque_Enable", 1)
    assert bus.servos[0].torque_share == 1.0


def test_an_overload_that_ends_with_the_torque():
    bus = overloaded(UNLATCHED)
    assert read(bus, "Status") == ErrorBit.OVERLOAD
    live(bus, 5.0)
    assert read(bus, "Status") == ErrorBit.OVERLOAD
    assert write(bus, "Torque_Enable", 0) == 0
    write(bus, "Torque_Enable", 1)
    assert bus.servos[0].torque_share == 1.0


@pytest.mark.parametrize(("unloading", "share"), [(44, 0.0), (36, 1.0)])
def test_too_much_current_takes_the_torque_if_unloading_condition_says_so(unloading, share):
    bus = bus_of(Unloading_Condition=unloading, Protection_Current=200, Over_Current_Protection_Time=50)
    write(bus, "Torque_Enable", 1)
    live(bus, 0.48, load=0.6)  # 222 of 200 units
    assert read(bus, "Status") == 0
    live(bus, 0.1, load=0.1)
    live(bus, 0.48, load=0.6)  # the time counts from the start again
    assert read(bus, "Status") == 0
    live(bus, 0.06, load=0.6)
    assert read(bus, "Status") == ErrorBit.OVERCURRENT == 8
    assert bus.servos[0].torque_share == share
    live(bus, 1.0)
    assert write(bus, "Torque_Enable", 0) == ErrorBit.OVERCURRENT


def test_at_the_factory_protection_current_stall_is_allowed():
    for model in SERVO_MODELS:
        bus = bus_of(model, Overload_Torque=254)
        write(bus, "Torque_Enable", 1)
        live(bus, 5.0, load=1.0, voltage=SERVO_MODELS[model].supply)
        assert read(bus, "Status") == 0
        assert read(bus, "Present_Current") < read(bus, "Protection_Current") == 500


def test_an_overload_keeps_the_torque_if_unloading_condition_does_not_name_it():
    bus = bus_of(Unloading_Condition=ErrorBit.OVERHEAT)
    write(bus, "Torque_Enable", 1)
    live(bus, 2.2, load=0.9)
    assert read(bus, "Status") == ErrorBit.OVERLOAD
    assert bus.servos[0].torque_share == 1.0


def test_the_load_is_the_duty_cycle():
    bus = bus_of()
    write(bus, "Torque_Enable", 1)
    live(bus, 0.02, load=0.3, velocity=1700.0)
    assert read(bus, "Present_Load") == 800  # half of the no-load speed needs half of the voltage
    assert read(bus, "Present_Current") == round(0.3 * 2.4 / 0.0065)
    live(bus, 0.02, load=-0.3, velocity=1700.0)  # braking
    assert read(bus, "Present_Load") == 200
    live(bus, 0.02, load=1.0, velocity=-1700.0)  # driven back against all its torque
    assert read(bus, "Present_Load") == 1000
    write(bus, "Torque_Enable", 0)
    live(bus, 0.02, velocity=1700.0)  # by hand
    assert read(bus, "Present_Load") == 0


@pytest.mark.parametrize(
    ("model", "voltage", "error"),
    [("C001", 7.4, 0), ("C001", 12.0, 1), ("C018", 12.0, 0), ("C018", 14.3, 1), ("C018", 3.5, 1)],
)
def test_the_voltage_that_a_version_needs(model, voltage, error):
    bus = bus_of(model)
    live(bus, 0.02, voltage=voltage)
    assert read(bus, "Model_Number") == 777
    assert read(bus, "Present_Voltage") == voltage * 10
    assert read(bus, "Status") == error
    write(bus, "Torque_Enable", 1)
    assert bus.servos[0].torque_share == 1.0  # Unloading_Condition 44 does not name the voltage


# --- torque and goal ---


@pytest.mark.parametrize(("follows", "goal"), [(True, 1500), (False, 3000)])
def test_the_goal_when_torque_comes_on(follows, goal):
    bus = bus_of(firmware=Firmware(goal_follows=follows))
    write(bus, "Goal_Position", 3000)
    live(bus, 0.02, position=1500.0)
    write(bus, "Torque_Enable", 1)
    assert read(bus, "Goal_Position") == goal
    bus.servos[0].power_up()
    write(bus, "Torque_Enable", 1)
    assert read(bus, "Goal_Position") == (1500 if follows else 0)


@pytest.mark.parametrize("enables", [False, True])
def test_torque_when_a_goal_is_written(enables):
    bus = bus_of(firmware=Firmware(goal_enables_torque=enables))
    live(bus, 0.02, position=1500.0)
    write(bus, "Goal_Velocity", 100)
    assert read(bus, "Torque_Enable") == 0
    goals = REGISTERS["Goal_Position"].address, 2, 1, 0, 8
    ask(bus, BROADCAST, Instruction.SYNC_WRITE, *goals)
    assert (read(bus, "Torque_Enable"), read(bus, "Goal_Position")) == (int(enables), 2048)
    write(bus, "Torque_Enable", 0)
    write(bus, "Operating_Mode", 1)
    write(bus, "Goal_Velocity", 0)
    assert read(bus, "Torque_Enable") == int(enables)


# --- Phase ---


def test_a_reversed_sensor_counts_down():
    bus = bus_of(Phase=12 + PhaseBit.SENSOR_REVERSED, Homing_Offset=100)
    live(bus, 0.02, position=1000.0, velocity=50.0)
    assert read(bus, "Present_Position") == (-1000 - 100) % 4096
    assert read(bus, "Present_Velocity") == -50
    assert bus.servos[0].shaft_goal(1000.0) == 1000 + (4096 - 1100)  # from 2996 down to 0
    write(bus, "Torque_Enable", 128)
    assert read(bus, "Present_Position") == 2048


def test_full_angle_feedback_counts_turns_until_they_are_reset():
    bus = bus_of(Phase=12 + PhaseBit.FULL_ANGLE, Homing_Offset=500)
    live(bus, 0.02, position=300.0)
    assert read(bus, "Present_Position") == -200
    live(bus, 0.02, position=7000.0)
    assert read(bus, "Present_Position") == 6500
    register = REGISTERS["Present_Position"]
    (answer,) = ask(bus, 1, Instruction.READ, register.address, 2)
    assert answer.parameters == (6500).to_bytes(2, "little")
    assert ask(bus, 1, Instruction.RESET) == [Packet(1, 0)]
    assert read(bus, "Present_Position") == 6500 - 4096
    live(bus, 0.02, position=-700.0)
    assert read(bus, "Present_Position") == -700 - 4096 - 500
    (answer,) = ask(bus, 1, Instruction.READ, register.address, 2)
    assert answer.parameters == (5296 | 1 << 15).to_bytes(2, "little")  # sign and magnitude
    bus.servos[0].power_up()  # "power failure does not save cycle count"
    assert read(bus, "Present_Position") == -700 + 4096 - 500
    write(bus, "Phase", 12)
    assert read(bus, "Present_Position") == (-700 - 500) % 4096


def test_without_full_angle_feedback_a_reset_of_turns_changes_nothing():
    bus = bus_of()
    live(bus, 0.02, position=9000.0)
    before = bus.servos[0].read(0, 87)
    assert ask(bus, 1, Instruction.RESET) == [Packet(1, 0)]
    assert bus.servos[0].read(0, 87) == before


def test_a_goal_in_another_turn():
    bus = bus_of(Phase=12 + PhaseBit.FULL_ANGLE, Min_Position_Limit=0, Max_Position_Limit=0)
    servo = bus.servos[0]
    live(bus, 0.02, position=6289.0)  # turned by hand
    write(bus, "Goal_Position", 2193)
    assert servo.shaft_goal(6289.0) == 2193  # a whole turn back
    write(bus, "Goal_Position", -9000)
    assert servo.shaft_goal(6289.0) == -9000
    write(bus, "Max_Position_Limit", 4095)
    assert servo.shaft_goal(6289.0) == 0
    write(bus, "Phase", 12)
    write(bus, "Goal_Position", 2193)
    assert servo.shaft_goal(6289.0) == 4096 + 2193


def test_the_unit_of_speed_and_what_speed_0_means():
    bus = bus_of(Phase=0)
    servo = bus.servos[0]
    live(bus, 0.02, velocity=1000.0)
    assert read(bus, "Present_Velocity") == 20
    write(bus, "Goal_Velocity", 20)
    assert servo.goal_speed == 1000
    write(bus, "Goal_Velocity", 0)
    assert servo.goal_speed == 0
    write(bus, "Phase", PhaseBit.ZERO_IS_FASTEST)
    assert servo.goal_speed == np.inf
    write(bus, "Operating_Mode", 1)
    assert servo.goal_speed == 0


# --- operating modes ---


def test_the_velocity_mode_goes_without_the_homing_offset():
    bus = bus_of(Homing_Offset=85)
    live(bus, 0.02, position=2136.0)
    assert read(bus, "Present_Position") == 2051
    write(bus, "Operating_Mode", 1)
    assert read(bus, "Present_Position") == 2136
    write(bus, "Operating_Mode", 0)
    assert read(bus, "Present_Position") == 2051


def test_the_step_mode_adds_steps():
    bus = bus_of(Min_Position_Limit=0, Max_Position_Limit=0, Homing_Offset=40)
    servo = bus.servos[0]
    live(bus, 0.02, position=1000.0)
    write(bus, "Operating_Mode", 3)
    write(bus, "Torque_Enable", 1)
    assert servo.shaft_goal(1000.0) == 1000
    write(bus, "Goal_Position", 500)
    write(bus, "Goal_Position", 500)
    assert servo.shaft_goal(1000.0) == 2000
    write(bus, "Goal_Position", -6000)
    assert servo.shaft_goal(1000.0) == -4000
    write(bus, "Torque_Enable", 0)
    live(bus, 0.02, position=300.0)
    write(bus, "Torque_Enable", 1)
    assert servo.shaft_goal(300.0) == 300
    write(bus, "Max_Position_Limit", 800)  # with limits it cannot step for ever
    write(bus, "Goal_Position", 3000)
    assert servo.shaft_goal(300.0) == 840


@pytest.mark.parametrize(("duty", "share"), [(300, 0.3), (-300, -0.3), (1000, 0.5), (-1000, -0.5)])
def test_the_pwm_mode_has_a_duty_cycle_within_the_torque_limit(duty, share):
    bus = bus_of(Operating_Mode=2)
    write(bus, "Torque_Enable", 1)
    write(bus, "Torque_Limit", 500)
    write(bus, "Goal_Time", duty)
    assert bus.servos[0].goal_duty == pytest.approx(share)
    assert bus.servos[0].read(REGISTERS["Goal_Time"].address, 2)[1] >> 2 & 1 == (duty < 0)  # bit 10
    write(bus, "Torque_Enable", 0)
    assert bus.servos[0].goal_duty == 0


# --- instructions ---


def test_recovery_restores_all_but_the_id_of_an_unlocked_servo():
    bus = bus_of("C018")
    write(bus, "Lock", 0)
    for name, value in (("ID", 4), ("P_Coefficient", 16), ("Homing_Offset", -300), ("Phase", 28)):
        write(bus, name, value, 4 if name != "ID" else 1)
    write(bus, "Lock", 1, 4)
    assert ask(bus, 4, Instruction.RECOVERY) == [Packet(4, 0)]
    assert read(bus, "P_Coefficient", 4) == 16
    write(bus, "Lock", 0, 4)
    assert ask(bus, 4, Instruction.RECOVERY) == [Packet(4, 0)]
    bus.servos[0].power_up()
    names = ("ID", "P_Coefficient", "Homing_Offset", "Phase", "Max_Voltage_Limit", "Return_Delay_Time")
    assert [read(bus, name, 4) for name in names] == [4, 32, 0, 12, 140, 0]
    assert ask(bus, BROADCAST, Instruction.RECOVERY) == []


def test_the_flag_of_a_write_that_waits():
    bus = bus_of()
    assert read(bus, "Async_Write_Flag") == 0
    assert write(bus, "Goal_Position", 100, instruction=Instruction.REG_WRITE) == 0
    assert (read(bus, "Async_Write_Flag"), read(bus, "Goal_Position")) == (1, 0)
    assert ask(bus, 1, Instruction.ACTION) == [Packet(1, 0)]
    assert (read(bus, "Async_Write_Flag"), read(bus, "Goal_Position")) == (0, 100)
    write(bus, "Goal_Position", 200, instruction=Instruction.REG_WRITE)
    bus.servos[0].power_up()
    assert (read(bus, "Async_Write_Flag"), read(bus, "Goal_Position")) == (0, 0)


@pytest.mark.parametrize(("code", "rate"), [(5, 76_800), (6, 57_600), (7, 38_400)])
def test_the_slow_baud_rates(code, rate):
    bus = bus_of()
    assert write(bus, "Baud_Rate", code) == 0
    answering = [speed for speed in (*BAUD_RATES, 19_200) if ask(bus, 1, Instruction.PING, baud_rate=speed)]
    assert answering == [rate]


def test_a_servo_from_the_factory_answers_at_once():
    bus = bus_of()
    assert read(bus, "Return_Delay_Time") == 0
    (reply,) = bus.answer(Packet(1, Instruction.PING), FAST)
    assert reply.delay == pytest.approx(60e-6)


@pytest.mark.parametrize("seed", range(3))
def test_whatever_is_written_the_control_stays_finite(seed):
    rng = np.random.default_rng(seed)
    servo = Servo(1)
    control = PositionControl([servo], [0], Drivetrain(), 0.002)
    for _ in range(500):
        servo.write(int(rng.integers(0, 87)), rng.integers(0, 256, 3, np.uint8).tobytes())
        angles = control.step(rng.uniform(-3, 3, 1))
        servo.update(0.02, Measurements(*rng.uniform(-1, 1, 3) * (9000, 3400, 1)))
        servo.read(0, 87)
        values = [angles, control.torque, control.damping, control.stiffness, control.torque_limit]
        assert np.isfinite(values).all()
        assert abs(control.torque[0]) <= control.drivetrain.stall
