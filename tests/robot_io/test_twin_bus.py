"""Packets, registers and servos of the twin, without a port or physics."""

import struct

import numpy as np
import pytest
import scservo_sdk
from lerobot.motors.feetech.tables import (
    MODEL_BAUDRATE_TABLE,
    MODEL_CONTROL_TABLE,
    MODEL_ENCODING_TABLE,
    MODEL_NUMBER_TABLE,
)

from robot_io.feetech.protocol import BROADCAST, ErrorBit, Instruction, Packet, Parser, pack
from robot_io.feetech.registers import BAUD_RATES, MODEL_NUMBER, REGISTERS, decode, encode
from robot_io.twin.bus import Bus
from robot_io.twin.servo import Measurements, Servo

FAST = 1_000_000


def ask(bus, servo_id, instruction, *parameters, baud_rate=FAST):
    """The packets that come back."""
    replies = bus.answer(Packet(servo_id, instruction, bytes(parameters)), baud_rate)
    return Parser().feed(b"".join(reply.data for reply in replies))


def address(name):
    return REGISTERS[name].address


def test_packets_survive_the_wire_and_what_surrounds_them():
    packets = [Packet(1, Instruction.PING), Packet(6, Instruction.WRITE, bytes([42, 255, 255, 1])), Packet(0xFD, 0)]
    stream = b"\xff\x00\xff\xff\xff" + b"".join(map(pack, packets)) + b"\xff\xff\x07"
    parser = Parser()
    received = [packet for byte in stream for packet in parser.feed(bytes([byte]))]
    assert received == packets
    assert Parser().feed(stream) == packets


def test_a_damaged_packet_is_skipped_and_the_next_one_found():
    good, damaged = pack(Packet(2, Instruction.PING)), bytearray(pack(Packet(1, Instruction.READ, b"\x38\x02")))
    for at in range(2, len(damaged)):
        for replacement in (b"", bytes([damaged[at] ^ 4])):
            stream = bytes(damaged[:at]) + replacement + bytes(damaged[at + 1 :]) + good * 40
            received = Parser().feed(stream)
            assert received
            assert set(received) == {Packet(2, Instruction.PING)}, (at, replacement)


def test_the_checksum_is_the_sdks():
    class Line:
        is_using = False
        sent = b""

        def clearPort(self):
            pass

        def writePort(self, data):
            self.sent = bytes(data)
            return len(data)

    line, sdk = Line(), scservo_sdk.PacketHandler(0)
    sdk.txPacket(line, [0, 0, 3, 5, Instruction.WRITE, 42, 0xFF, 0x07, 0])
    assert line.sent == pack(Packet(3, Instruction.WRITE, bytes([42, 0xFF, 0x07])))


def test_the_register_map_is_the_one_that_lerobot_uses():
    table = {name.strip(): place for name, place in MODEL_CONTROL_TABLE["sts3215"].items()}
    assert {name: place for name, place in table.items() if name != "Moving_Velocity"} == {
        name: (register.address, register.size) for name, register in REGISTERS.items() if name != "Async_Write_Flag"
    }
    signs = {name: bit for name, bit in MODEL_ENCODING_TABLE["sts3215"].items() if name in REGISTERS}
    unsigned = ("Present_Current", "Goal_Time")  # in LeRobot's table
    assert signs == {name: r.sign_bit for name, r in REGISTERS.items() if r.sign_bit and name not in unsigned}
    assert MODEL_NUMBER_TABLE["sts3215"] == MODEL_NUMBER
    rates = {value: rate for rate, value in MODEL_BAUDRATE_TABLE["sts3215"].items()}
    assert [rates[value] for value in range(5)] == list(BAUD_RATES[:5])
    # Feetech's memory table and SDK; LeRobot has 57,600, 38,400 and 19,200.
    assert BAUD_RATES[5:] == (76_800, 57_600, 38_400)
    assert [decode(REGISTERS["Homing_Offset"], encode(REGISTERS["Homing_Offset"], n)) for n in (-85, 85, -2047)] == [
        -85,
        85,
        -2047,
    ]


def test_eeprom_is_kept_only_if_unlocked_and_sram_never():
    servo = Servo(1)
    servo.write(address("P_Coefficient"), b"\x10")  # Lock is 1: in force, but not for good
    servo.write(address("Acceleration"), b"\x63")
    assert (servo.get("P_Coefficient"), servo.get("Acceleration")) == (16, 99)
    servo.power_up()
    assert (servo.get("P_Coefficient"), servo.get("Acceleration")) == (32, 0)
    servo.write(address("Lock"), b"\0")
    servo.write(address("P_Coefficient"), b"\x10")
    servo.power_up()
    assert (servo.get("P_Coefficient"), servo.get("Lock")) == (16, 1)


def test_read_only_registers_stay():
    servo = Servo(1)
    before = servo.read(0, 100)
    servo.write(address("Model_Number"), b"\1\1")
    servo.write(address("Present_Position"), bytes(10))
    assert servo.read(0, 100) == before
    assert len(before) == 100


def test_switching_torque_on_does_not_make_a_servo_jump():
    servo = Servo(1)
    servo.update(0.01, Measurements(position=1500.0))
    servo.write(address("Goal_Position"), struct.pack("<H", 3000))
    servo.write(address("Torque_Enable"), b"\1")
    assert servo.get("Goal_Position") == 1500
    servo.write(address("Goal_Position"), struct.pack("<H", 1600))
    servo.write(address("Torque_Enable"), b"\1")  # again, while it is on
    assert servo.get("Goal_Position") == 1600


def test_the_homing_offset_shifts_what_the_servo_reports():
    servo = Servo(1)
    servo.update(0.01, Measurements(position=2600.0))
    servo.write(address("Homing_Offset"), encode(REGISTERS["Homing_Offset"], 553))
    assert decode(REGISTERS["Present_Position"], servo.read(address("Present_Position"), 2)) == 2047
    servo.write(address("Torque_Enable"), b"\x80")
    assert decode(REGISTERS["Present_Position"], servo.read(address("Present_Position"), 2)) == 2048
    servo.update(0.01, Measurements(position=-700.0))  # never negative
    assert 0 <= servo.position < 4096


def test_a_servo_protects_itself():
    servo = Servo(1)
    servo.write(address("Torque_Enable"), b"\1")
    assert servo.torque_share == 1.0
    for _ in range(150):
        servo.update(0.02, Measurements(load=0.9))
    assert servo.error == ErrorBit.OVERLOAD
    assert servo.torque_share == pytest.approx(0.2)
    servo.power_up()
    assert servo.error == 0
    servo.write(address("Torque_Enable"), b"\1")
    servo.heated_to = 80.0
    servo.update(0.02, Measurements())
    assert servo.error == ErrorBit.OVERHEAT
    assert servo.torque_share == 0.0
    servo.heated_to = 0.0
    servo.temperature = 40.0
    servo.update(0.02, Measurements(voltage=3.0))
    assert servo.error == ErrorBit.VOLTAGE


def test_the_bus_answers_each_instruction():
    bus = Bus([Servo(number) for number in (1, 2, 3)])
    assert ask(bus, 2, Instruction.PING) == [Packet(2, 0)]
    assert [packet.id for packet in ask(bus, BROADCAST, Instruction.PING)] == [1, 2, 3]
    assert ask(bus, 9, Instruction.PING) == []
    assert ask(bus, 1, Instruction.READ, address("Model_Number"), 2) == [Packet(1, 0, struct.pack("<H", 777))]
    assert ask(bus, 1, Instruction.WRITE, address("P_Coefficient"), 16) == [Packet(1, 0)]
    assert bus.servos[0].get("P_Coefficient") == 16
    assert ask(bus, BROADCAST, Instruction.WRITE, address("Torque_Enable"), 1) == []
    assert [servo.get("Torque_Enable") for servo in bus.servos] == [1, 1, 1]
    goals = [1, 0x10, 0x01, 3, 0x20, 0x02]
    assert ask(bus, BROADCAST, Instruction.SYNC_WRITE, address("Goal_Position"), 2, *goals) == []
    assert [servo.get("Goal_Position") for servo in bus.servos] == [0x0110, 0, 0x0220]
    answers = ask(bus, BROADCAST, Instruction.SYNC_READ, address("Goal_Position"), 2, 3, 1)
    assert answers == [Packet(3, 0, b"\x20\x02"), Packet(1, 0, b"\x10\x01")]
    assert ask(bus, 2, Instruction.REG_WRITE, address("Acceleration"), 50) == [Packet(2, 0)]
    assert bus.servos[1].get("Acceleration") == 0
    assert ask(bus, BROADCAST, Instruction.ACTION) == []
    assert bus.servos[1].get("Acceleration") == 50


def test_changing_the_id_is_answered_by_the_old_one():
    bus = Bus([Servo(1)])
    assert ask(bus, 1, Instruction.WRITE, address("ID"), 4) == [Packet(1, 0)]
    assert ask(bus, 4, Instruction.PING) == [Packet(4, 0)]


def test_servos_hear_only_their_own_speed_and_silent_ones_nothing():
    bus = Bus([Servo(1), Servo(2), Servo(3)])
    assert ask(bus, 1, Instruction.PING, baud_rate=115_200) == []
    assert ask(bus, 1, Instruction.WRITE, address("Baud_Rate"), 4) == [Packet(1, 0)]
    assert ask(bus, 1, Instruction.PING, baud_rate=115_200) == [Packet(1, 0)]
    bus.silent.add(1)
    bus.unplugged.add(2)
    assert ask(bus, BROADCAST, Instruction.PING) == []


def test_two_servos_of_one_id_spoil_each_others_answers():
    bus = Bus([Servo(1), Servo(2), Servo(2)])
    assert ask(bus, 1, Instruction.PING) == [Packet(1, 0)]
    replies = bus.answer(Packet(2, Instruction.PING), FAST)
    assert replies
    assert ask(bus, 2, Instruction.PING) == []


def test_answers_take_the_time_of_their_bytes():
    bus = Bus([Servo(number) for number in range(1, 7)])
    for servo in bus.servos:
        servo.set("Return_Delay_Time", 0)
    request = Packet(BROADCAST, Instruction.SYNC_READ, bytes([56, 2, 1, 2, 3, 4, 5, 6]))
    delays = [reply.delay for reply in bus.answer(request, FAST)]
    assert delays == pytest.approx(np.arange(1, 7) * 80e-6)  # eight bytes of ten bits at 1 Mbaud
    for servo in bus.servos:
        servo.set("Return_Delay_Time", 250)
    assert bus.answer(request, FAST)[0].delay == pytest.approx(580e-6)


@pytest.mark.parametrize("seed", range(3))
def test_nothing_that_comes_over_the_wire_breaks_the_bus(seed):
    rng = np.random.default_rng(seed)
    bus, parser = Bus([Servo(number) for number in range(1, 7)]), Parser()
    codes = [*Instruction, 0, 99]
    for _ in range(3000):
        parameters = rng.integers(0, 256, rng.integers(0, 12), np.uint8).tobytes()
        packet = Packet(int(rng.choice([1, 3, 200, BROADCAST])), int(rng.choice(codes)), parameters)
        for heard in parser.feed(rng.integers(0, 256, 3, np.uint8).tobytes() + pack(packet)):
            bus.answer(heard, FAST)
    assert len(bus.servos) == 6
