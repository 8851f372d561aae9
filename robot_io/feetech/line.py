"""Exchanges with Feetech servos in which a late or repeated answer is never taken for a new one.

The protocol has no sequence numbers: an answer names its servo and its length, not the request. An adapter that stalls
holds answers back and then delivers all of them, when the host has given them up and asked again. So:

- The number of bytes that are read changes from request to request; an answer of another length is an earlier one's.
- After an exchange that failed, answers may still be on the way. Bytes may be late, but keep their order: one servo is
  asked for a few bytes, and everything before its answer is dropped.
"""

import select
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import serial

from .protocol import BROADCAST, Instruction, Packet, Parser, pack
from .registers import MEMORY_SIZE

ONE, ALL = range(1, 8), range(8, 16)  # bytes that are read from one servo, and from several at once
_STATUS = 0x80  # codes below are error bytes
_AWAKE_S = 0.005  # seconds that sound servos need to answer
_ANSWER = 6  # bytes of an answer without its data


class NoAnswer(ConnectionError):
    """Servos that did not answer, or not readably.

    The text has LeRobot's form, which `robot_io.diagnosis` explains: `id_=` names a servo, unless all are silent.

    Args:
        missing: ids without an answer.
        ids: of the servos that were asked.
        senders: ids of answers that no servo with this id was asked for, or that came twice with different contents.
    """

    def __init__(self, missing: Sequence[int], ids: Sequence[int], senders: Sequence[int] = ()) -> None:
        self.missing, self.senders = missing, senders
        one = f" from id_={missing[0]}" if len(missing) < len(ids) or len(ids) == 1 else ""
        answered = f" It answers as id {senders[0]}." if one and senders else ""
        super().__init__(f"[TxRxResult] There is no status packet{one}!{answered}")


class Memory(NamedTuple):
    """Registers of a servo from address `start` on, and its error byte."""

    error: int
    start: int
    data: bytes

    def value(self, address: int, size: int) -> int:
        """Unsigned number at an address, low byte first."""
        at = address - self.start
        return int.from_bytes(self.data[at : at + size], "little")


class Line:
    """Line of servos on a serial port, with one exchange at a time.

    Args:
        patience_s: seconds that answers of a number of bytes may take.

    Attributes:
        late: number of answers that were recognised as late or repeated, and dropped.
    """

    def __init__(self, patience_s: Callable[[int], float]) -> None:
        self.late = 0
        self._patience_s = patience_s
        self._number = 0  # of the request
        self._used: dict[int, int] = {}  # number of the last request by the bytes that it read
        self._in_step = False  # answers to earlier requests may be on the way
        self._silent: Sequence[int] = ()  # ids that did not answer when all were last asked

    def read(self, port: serial.Serial, ids: Sequence[int], address: int, size: int) -> dict[int, Memory]:
        """Read at least the registers [address, address + size) of several servos at once, by id.

        Raises NoAnswer unless each one has answered exactly once and in its turn, and OSError if the port fails.
        """
        if not self._in_step:
            self._drop_late_answers(port, ids)
        start, length = self._range(address, size, ALL)
        request = Packet(BROADCAST, Instruction.SYNC_READ, bytes([start, length, *ids]))
        try:
            answers = self._exchange(port, request, ids, length)
        except NoAnswer as error:
            self._silent = error.missing
            raise
        self._silent = ()
        return {servo: Memory(answer.code, start, answer.parameters) for servo, answer in answers.items()}

    def read_one(self, port: serial.Serial, servo: int, address: int, size: int, any_sender: bool = False) -> Memory:
        """Read at least the registers [address, address + size) of one servo.

        any_sender: accept the answer whatever id it names, unless late answers may be on the way. Raises as `read`.
        """
        start, length = self._range(address, size, ONE)
        request = Packet(servo, Instruction.READ, bytes([start, length]))
        answer = self._exchange(port, request, [servo], length, any_sender)[servo]
        return Memory(answer.code, start, answer.parameters)

    def write(self, port: serial.Serial, servo: int, address: int, data: bytes) -> int:
        """Write registers of a servo; returns the error byte of its answer. Raises as `read`."""
        if not self._in_step:
            self.read_one(port, servo, address, 1)
        return self._exchange(port, Packet(servo, Instruction.WRITE, bytes([address]) + data), [servo], 0)[servo].code

    def _drop_late_answers(self, port: serial.Serial, ids: Sequence[int]) -> None:
        """Read a few bytes from one servo, in turn, since answers to earlier requests come before its answer."""
        servo = ids[self._number // len(ONE) % len(ids)]
        try:
            self.read_one(port, servo, 0, 1)
        except NoAnswer as error:
            if servo in self._silent:
                raise NoAnswer(self._silent, ids, error.senders) from error
            raise NoAnswer(ids, ids) from error

    def _range(self, address: int, size: int, lengths: range) -> tuple[int, int]:
        """First address and number of bytes of the next request: the number that was not used for longest."""
        self._number += 1
        choices = range(max(size, lengths.start), max(size + 1, lengths.stop))
        length = min(choices, key=lambda choice: self._used.get(choice, 0))
        self._used[length] = self._number
        return max(0, min(address, max(MEMORY_SIZE, address + size) - length)), length

    def _exchange(
        self, port: serial.Serial, request: Packet, ids: Sequence[int], length: int, any_sender: bool = False
    ) -> dict[int, Packet]:
        """Send a request and collect one answer of `length` bytes per servo."""
        any_sender, self._in_step = any_sender and self._in_step, False  # out of step it may be another's late answer
        port.reset_input_buffer()
        port.write(pack(request))
        start = time.monotonic()
        end = start + self._patience_s(len(ids) * (_ANSWER + length))
        parser, senders = Parser(), list[int]()
        answers: dict[int, Packet] = {}
        while ids[-1] not in answers and (now := time.monotonic()) < end:
            # Waking up takes longer than an answer on a busy machine, so the port is looked at all the time at first.
            if not select.select([port.fileno()], [], [], 0 if now - start < _AWAKE_S else end - now)[0]:
                continue
            for packet in parser.feed(port.read(port.in_waiting or 1)):
                sender = ids[0] if any_sender else packet.id
                if len(packet.parameters) != length or packet.code >= _STATUS:
                    self.late += 1
                elif sender in ids and answers.setdefault(sender, packet) == packet:
                    continue
                else:
                    senders.append(packet.id)
        if list(answers) != list(ids) or senders:
            raise NoAnswer([servo for servo in ids if servo not in answers] or ids, ids, senders)
        self._in_step = True
        return answers
