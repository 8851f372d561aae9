"""The Feetech servo protocol (STS series): packets, their checksums, and a parser that finds them in a stream.

A packet is 0xFF 0xFF, id, length, code, parameters, checksum. The code is an instruction on the way to a servo and its
error byte on the way back; length counts code, parameters and checksum.
"""

from dataclasses import dataclass
from enum import IntEnum

HEADER = b"\xff\xff"
BROADCAST = 0xFE
_OVERHEAD = 4  # header, id and length, which the length does not count
_LONGEST = 250


class Instruction(IntEnum):
    """Instructions of the communication protocol's manual. 0x08 (restart), 0x09 and 0x0B are for other models."""

    PING = 0x01
    READ = 0x02
    WRITE = 0x03
    REG_WRITE = 0x04
    ACTION = 0x05
    RECOVERY = 0x06  # factory values
    RESET = 0x0A  # count of turns to 0
    SYNC_READ = 0x82
    SYNC_WRITE = 0x83


class ErrorBit(IntEnum):
    """Bits of a servo's error byte and of its Status register (SMS/STS memory table, section 3.2)."""

    VOLTAGE = 1
    SENSOR = 2
    OVERHEAT = 4
    OVERCURRENT = 8
    OVERLOAD = 32


@dataclass(frozen=True)
class Packet:
    id: int
    code: int
    parameters: bytes = b""


def checksum(body: bytes) -> int:
    """Last byte of a packet whose id, length, code and parameters are `body`."""
    return ~sum(body) & 0xFF


def pack(packet: Packet) -> bytes:
    """Bytes of a packet on the wire."""
    body = bytes([packet.id, len(packet.parameters) + 2, packet.code]) + packet.parameters
    return HEADER + body + bytes([checksum(body)])


class Parser:
    """Parser that finds packets in a stream of any bytes and skips everything else."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Packet]:
        """Add received bytes; returns the packets that they complete. Damaged packets are skipped."""
        self._buffer += data
        packets: list[Packet] = []
        while (start := self._buffer.find(HEADER)) >= 0:
            del self._buffer[:start]
            if len(self._buffer) < _OVERHEAD:
                return packets
            if self._buffer[2] == 0xFF:  # three in a row: the first does not belong to the header
                del self._buffer[0]
                continue
            end = _OVERHEAD + self._buffer[3]
            if not _OVERHEAD + 2 <= end <= _LONGEST:
                del self._buffer[0]
                continue
            if len(self._buffer) < end:
                return packets
            body, last = bytes(self._buffer[2 : end - 1]), self._buffer[end - 1]
            if checksum(body) != last:
                del self._buffer[0]
                continue
            packets.append(Packet(body[0], body[2], body[3:]))
            del self._buffer[:end]
        del self._buffer[: len(self._buffer) - 1]  # the last byte may be the first of a header
        return packets

    def clear(self) -> None:
        """Drop an unfinished packet, as a servo does when the bus falls silent."""
        self._buffer.clear()
