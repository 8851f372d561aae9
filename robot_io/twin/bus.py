"""Half-duplex line of servos: their answers to an instruction, and the times at which these arrive."""

from collections.abc import Sequence
from typing import NamedTuple

from ..feetech.protocol import BROADCAST, Instruction, Packet, pack
from ..feetech.registers import BAUD_RATES
from .servo import Servo

_BITS_PER_BYTE = 10  # start, eight, stop


class Reply(NamedTuple):
    """Answer of a servo. delay: seconds from the end of the instruction to the last byte of `data`."""

    delay: float
    data: bytes


class Bus:
    """Servos that share a line. Two with the same id answer at once, and garble each other's answers.

    `silent` and `unplugged` are the indices of servos that receive no instruction.
    """

    def __init__(self, servos: Sequence[Servo]):
        self.servos = list(servos)
        self.silent: set[int] = set()
        self.unplugged: set[int] = set()

    def answer(self, packet: Packet, baud_rate: int) -> list[Reply]:
        """Execute an instruction; returns the answers in order."""
        listening = [
            servo
            for index, servo in enumerate(self.servos)
            if index not in self.silent | self.unplugged and servo.answers and _baud_rate(servo) == baud_rate
        ]
        if packet.code == Instruction.SYNC_WRITE:
            _sync_write(listening, packet.parameters)
            return []
        if packet.code == Instruction.SYNC_READ and len(packet.parameters) > 2:
            start, length, *ids = packet.parameters
            # A servo answers in its turn, even if those before it are silent.
            answers = [[_status(s, s.read(start, length)) for s in listening if s.id == servo_id] for servo_id in ids]
        else:
            addressed = [s for s in listening if packet.id in (s.id, BROADCAST)]
            # Servos answer a broadcast in the order of their ids.
            by_id: dict[int, list[Servo]] = {}
            for servo in sorted(addressed, key=lambda s: s.id):
                by_id.setdefault(servo.id, []).append(servo)
            answers = [
                [data for servo in group if (data := _execute(servo, packet)) is not None] for group in by_id.values()
            ]
        delay, replies = 0.0, []
        return_delay = max((servo.get("Return_Delay_Time") * 2e-6 for servo in listening), default=0.0)
        for group_answers in answers:
            if group_answers:
                data = _overlay(group_answers)
                delay += return_delay + len(data) * _BITS_PER_BYTE / baud_rate
                replies.append(Reply(delay, data))
        return replies


def _baud_rate(servo: Servo) -> int:
    value = servo.get("Baud_Rate")
    return BAUD_RATES[value] if value < len(BAUD_RATES) else 0


def _execute(servo: Servo, packet: Packet) -> bytes | None:
    """Execute a packet's instruction; returns the status packet, or None if none is due."""
    parameters = packet.parameters
    if packet.code == Instruction.PING:
        return _status(servo)  # answered even if other answers are switched off
    if packet.code == Instruction.READ and len(parameters) == 2:
        return None if packet.id == BROADCAST else _status(servo, servo.read(*parameters))
    if packet.code == Instruction.WRITE and len(parameters) > 1:
        before = servo.id
        servo.write(parameters[0], parameters[1:])
        if servo.id != before:  # the answer to a change of id comes from the old one
            return _acknowledge(servo, packet, before)
    elif packet.code == Instruction.REG_WRITE and len(parameters) > 1:
        servo.write_later(parameters[0], parameters[1:])
    elif packet.code == Instruction.ACTION:
        servo.write_pending()
    elif packet.code == Instruction.RECOVERY:
        servo.recover()
    elif packet.code == Instruction.RESET:
        servo.reset_turns()
    else:
        return None
    return _acknowledge(servo, packet, servo.id)


def _acknowledge(servo: Servo, packet: Packet, sender: int) -> bytes | None:
    quiet = packet.id == BROADCAST or not servo.get("Response_Status_Level")
    return None if quiet else pack(Packet(sender, servo.error))


def _status(servo: Servo, data: bytes = b"") -> bytes:
    return pack(Packet(servo.id, servo.error, data))


def _sync_write(servos: Sequence[Servo], parameters: bytes) -> None:
    if len(parameters) < 3:
        return
    start, length, rest = parameters[0], parameters[1], parameters[2:]
    for at in range(0, len(rest) - length, length + 1):
        for servo in servos:
            if servo.id == rest[at]:
                servo.write(start, rest[at + 1 : at + 1 + length])


def _overlay(answers: Sequence[bytes]) -> bytes:
    """Bytes on the line when servos send at once, each one byte later than the one before: a 0 bit of any is a 0."""
    line = bytearray(b"\xff" * (max(map(len, answers)) + len(answers) - 1))
    for lag, answer in enumerate(answers):
        for at, value in enumerate(answer, lag):
            line[at] &= value
    return bytes(line)
