"""Exchanges over a line whose bytes a test sends itself: late, repeated, contradicting and missing answers."""

import os
import threading

import pytest
import serial

from robot_io.feetech.line import ALL, ONE, Line, NoAnswer
from robot_io.feetech.protocol import Instruction, Packet, Parser, pack

IDS = (1, 2, 3)


class Servos:
    """Three servos on a pseudo-terminal: `answer` turns the requests so far into the packets to send next."""

    def __init__(self):
        self.requests, self.answer = [], in_time
        self._master, slave = os.openpty()
        self.port = serial.Serial(os.ttyname(slave), 1_000_000, timeout=0)
        os.close(slave)
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self):
        parser = Parser()
        while True:
            try:
                data = os.read(self._master, 4096)
            except OSError:
                return
            for request in parser.feed(data):
                self.requests.append(request)
                os.write(self._master, b"".join(map(pack, self.answer(self.requests))))


def in_time(requests):
    return answers_to(requests[-1], len(requests))


def answers_to(request, number):
    """Answers of the servos that a request is for: every byte is the request's number."""
    if request.code == Instruction.WRITE:
        return [Packet(request.id, 0)]
    _, length, *ids = request.parameters
    return [Packet(servo, 0, bytes([number] * length)) for servo in ids or [request.id]]


@pytest.fixture
def servos():
    servos = Servos()
    yield servos
    servos.port.close()
    os.close(servos._master)


@pytest.fixture
def line(servos):
    line = Line(lambda _: 0.3)
    line.read(servos.port, IDS, 56, 8)
    return line


def test_answers_of_an_earlier_request_are_dropped(line, servos):
    for held_back in range(1, 4):
        count = len(servos.requests)

        def late(requests, begin=count, held_back=held_back):
            if len(requests) <= begin + held_back:
                return []
            return [packet for number in range(begin, len(requests)) for packet in answers_to(requests[number], number)]

        servos.answer = late
        for _ in range(held_back):
            with pytest.raises(NoAnswer):
                line.read(servos.port, IDS, 56, 8)
        before = line.late
        memories = line.read(servos.port, IDS, 56, 8)
        assert {memory.data[0] for memory in memories.values()} == {len(servos.requests) - 1}
        assert line.late > before
        servos.answer = in_time
        line.read(servos.port, IDS, 56, 8)


def test_answers_that_come_twice_are_answers_once(line, servos):
    servos.answer = lambda requests: [packet for packet in in_time(requests) for _ in range(2)]
    for address in (56, 40, 56, 60):
        memories = line.read(servos.port, IDS, address, 1)
        assert {memory.data[0] for memory in memories.values()} == {len(servos.requests)}
        assert line.read_one(servos.port, 2, address, 2).data[0] == len(servos.requests)


def test_two_answers_that_contradict_each_other_are_none(line, servos):
    servos.answer = lambda requests: [Packet(2, 0, bytes(requests[-1].parameters[1])), *in_time(requests)]
    with pytest.raises(NoAnswer):
        line.read(servos.port, IDS, 56, 8)


def test_the_servo_that_is_missing_is_named_and_the_id_that_it_uses(line, servos):
    servos.answer = lambda requests: [packet for packet in in_time(requests) if packet.id != 2]
    with pytest.raises(NoAnswer, match=r"no status packet from id_=2!$"):
        line.read(servos.port, IDS, 56, 8)
    servos.answer = in_time
    line.read(servos.port, IDS, 56, 8)
    servos.answer = lambda requests: [
        Packet(3 if packet.id == 2 else packet.id, 0, packet.parameters) for packet in in_time(requests)
    ]
    with pytest.raises(NoAnswer, match=r"from id_=2! It answers as id 3"):
        line.read_one(servos.port, 2, 40, 1)
    with pytest.raises(NoAnswer):  # it may be a late answer of servo 3
        line.read_one(servos.port, 2, 40, 1, any_sender=True)
    line.read_one(servos.port, 1, 40, 1)
    assert line.read_one(servos.port, 2, 40, 1, any_sender=True).value(40, 1) == len(servos.requests)


def test_every_try_names_the_id_that_a_servo_uses(line, servos):
    servos.answer = lambda requests: [
        Packet(3 if packet.id == 2 else packet.id, 0, bytes([packet.id]) * len(packet.parameters))
        for packet in in_time(requests)
    ]
    for _ in range(3 * len(ONE)):  # the servo that is asked for a few bytes after a failure changes
        with pytest.raises(NoAnswer, match=r"from id_=2! It answers as id 3"):
            line.read(servos.port, IDS, 56, 8)


def test_every_request_for_all_servos_has_another_length(line, servos):
    for _ in range(2 * len(ALL)):
        line.read(servos.port, IDS, 56, 8)
    lengths = [request.parameters[1] for request in servos.requests if request.code == Instruction.SYNC_READ]
    for begin in range(len(lengths) - len(ALL) + 1):
        assert len(set(lengths[begin : begin + len(ALL)])) == len(ALL)
    starts = {request.parameters[0] for request in servos.requests if request.code == Instruction.SYNC_READ}
    assert starts == {56}
    assert line.read(servos.port, IDS, 86, 1)[3].value(86, 1) == len(servos.requests)  # up to the last register
