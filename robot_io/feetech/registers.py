"""Registers of an STS3215: addresses, sizes, signs and factory values.

Names are LeRobot's. Positions are steps of 1/4096 turn, speeds steps/s, accelerations 100 steps/s², torques and load
thousandths of the stall torque unless noted.

Source: Feetech's "STS3215 memory table V3.6", "SMS/STS memory table" (bits of Phase) and "Communication protocol user
manual". V3.6 describes firmware 3.6; servos of an SO-101 come with 3.10, whose values of three registers differ (noted
below). What owners report, and is in none of these, is noted where it is used.
"""

from enum import IntEnum
from typing import NamedTuple

RESOLUTION = 4096  # steps per turn
MODEL_NUMBER = 777
EEPROM_END = 40  # registers below survive a loss of power if they were written while Lock was 0
MEMORY_SIZE = 87
CENTRE_HERE = 128  # written to Torque_Enable: call the present position 2048
# By the value of Baud_Rate, after the memory table and Feetech's SDK (SMS_STS.h). LeRobot's table has 57,600, 38,400
# and 19,200 for the values 5 to 7, so that it never finds a servo with the value 5.
BAUD_RATES = (1_000_000, 500_000, 250_000, 128_000, 115_200, 76_800, 57_600, 38_400)
POSITION_MODE, VELOCITY_MODE, PWM_MODE, STEP_MODE = 0, 1, 2, 3


class PhaseBit(IntEnum):
    """Bits of the register Phase (SMS/STS memory table, section 3.1). The others do not concern motion.

    A servo that turns the other way has both direction bits ("128 + 1 = 129"). With one of them alone it drives away
    from its goal.
    """

    MOTOR_REVERSED = 1
    FINE_SPEED = 4  # speeds in steps/s; without it in 50 steps/s
    ZERO_IS_FASTEST = 8  # Goal_Velocity 0 is the greatest speed; without it, it means stop
    FULL_ANGLE = 16  # Present_Position counts turns, and may be negative or above 4095
    SENSOR_REVERSED = 128


class Register(NamedTuple):
    """Register of a servo. sign_bit: of a number written as sign and magnitude; None without a sign."""

    address: int
    size: int = 1
    factory: int = 0
    sign_bit: int | None = None
    read_only: bool = False


REGISTERS = {
    # EEPROM
    "Firmware_Major_Version": Register(0, factory=3, read_only=True),
    "Firmware_Minor_Version": Register(1, factory=10, read_only=True),  # V3.6: 6
    "Model_Number": Register(3, 2, MODEL_NUMBER, read_only=True),
    "ID": Register(5, factory=1),
    "Baud_Rate": Register(6),
    "Return_Delay_Time": Register(7, factory=0),  # 2 µs; 250 after a comment in LeRobot, which sets it to 0 itself
    "Response_Status_Level": Register(8, factory=1),
    "Min_Position_Limit": Register(9, 2, 0),
    "Max_Position_Limit": Register(11, 2, RESOLUTION - 1),
    "Max_Temperature_Limit": Register(13, factory=70),  # °C
    "Max_Voltage_Limit": Register(14, factory=80),  # 0.1 V
    "Min_Voltage_Limit": Register(15, factory=40),  # 0.1 V
    "Max_Torque_Limit": Register(16, 2, 1000),
    "Phase": Register(18, factory=12),
    "Unloading_Condition": Register(19, factory=44),  # error bits that cut the torque
    "LED_Alarm_Condition": Register(20, factory=47),
    "P_Coefficient": Register(21, factory=32),
    "D_Coefficient": Register(22, factory=32),
    "I_Coefficient": Register(23),
    "Minimum_Startup_Force": Register(24, 2, 16),
    "CW_Dead_Zone": Register(26, factory=1),
    "CCW_Dead_Zone": Register(27, factory=1),
    "Protection_Current": Register(28, 2, 500),  # 6.5 mA
    "Angular_Resolution": Register(30, factory=1),
    "Homing_Offset": Register(31, 2, sign_bit=11),
    "Operating_Mode": Register(33),
    "Protective_Torque": Register(34, factory=20),  # % of the stall torque, after an overload
    "Protection_Time": Register(35, factory=200),  # 10 ms of overload before it counts
    "Overload_Torque": Register(36, factory=80),  # %
    "Velocity_closed_loop_P_proportional_coefficient": Register(37, factory=10),
    "Over_Current_Protection_Time": Register(38, factory=200),  # 10 ms above Protection_Current before it counts
    "Velocity_closed_loop_I_integral_coefficient": Register(39, factory=200),  # V3.6: 10, in units of 10
    # SRAM
    "Torque_Enable": Register(40),
    "Acceleration": Register(41),
    "Goal_Position": Register(42, 2, sign_bit=15),
    # In PWM mode the duty cycle in thousandths. Its sign: bit 11 after V3.6, bit 10 after the later table and a
    # measurement on firmware 3.10 (huggingface/lerobot pull request 4547).
    "Goal_Time": Register(44, 2, sign_bit=10),
    "Goal_Velocity": Register(46, 2, sign_bit=15),  # 0: as fast as it can
    "Torque_Limit": Register(48, 2, 1000),
    "Lock": Register(55, factory=1),  # V3.6: 0
    "Present_Position": Register(56, 2, sign_bit=15, read_only=True),
    "Present_Velocity": Register(58, 2, sign_bit=15, read_only=True),
    "Present_Load": Register(60, 2, sign_bit=10, read_only=True),  # duty cycle of the motor, thousandths
    "Present_Voltage": Register(62, factory=74, read_only=True),  # 0.1 V
    "Present_Temperature": Register(63, factory=25, read_only=True),  # °C
    "Async_Write_Flag": Register(64, read_only=True),  # 1 while a REG WRITE waits for its ACTION; LeRobot has no name
    "Status": Register(65, read_only=True),
    "Moving": Register(66, read_only=True),
    "Present_Current": Register(69, 2, sign_bit=15, read_only=True),  # 6.5 mA
    "Goal_Position_2": Register(71, 2, read_only=True),
    # Factory
    "Moving_Velocity_Threshold": Register(80, factory=1),
    "DTs": Register(81, factory=10),
    "Velocity_Unit_factor": Register(82, factory=1),
    "Hts": Register(83),
    "Maximum_Velocity_Limit": Register(84, factory=67),  # 50 steps/s
    "Maximum_Acceleration": Register(85, factory=254),
    "Acceleration_Multiplier": Register(86, factory=1),
}

READ_ONLY = frozenset(
    address
    for register in REGISTERS.values()
    if register.read_only
    for address in range(register.address, register.address + register.size)
)


def encode(register: Register, value: int) -> bytes:
    """Encode a number as the register's bytes, low byte first."""
    if register.sign_bit is not None:
        largest = (1 << register.sign_bit) - 1
        value = min(abs(value), largest) | (int(value < 0) << register.sign_bit)
    return int(value).to_bytes(register.size, "little")


def decode(register: Register, data: bytes) -> int:
    """Decode a register's bytes, low byte first."""
    value = int.from_bytes(data, "little")
    if register.sign_bit is None:
        return value
    magnitude = value & ((1 << register.sign_bit) - 1)
    return -magnitude if value >> register.sign_bit & 1 else magnitude
