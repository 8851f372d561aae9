"""Check of a stranger's ONNX file before an engine opens it, without the package onnx.

A file may say that its weights are in other files, anywhere on the machine, and may name operators of a library beside
it. `export.py` writes neither: one file with the standard operators.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path

from ..errors import UserError
from ..untrusted import check_regular

MAX_BYTES = 2 << 30  # protobuf's own limit
_MAX_DEPTH = 64
_MAX_FIELDS = 1_000_000  # that are looked at; a policy of the paper's size has some ten thousand
_DOMAINS = ("", "ai.onnx")
# Numbers of the fields of onnx.proto that lead to tensors and nodes, by message.
_FIELDS = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "function": {7: "node", 11: "attribute"},
    "tensor": {},
}
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14  # of a tensor
_DOMAIN = 7  # of a node


def check_onnx(file: Path) -> None:
    """Raise UserError for an ONNX file that refers to other files or to operators that are not ONNX's own."""
    check_regular(file, MAX_BYTES)
    with file.open("rb") as stream:
        content = memoryview(stream.read())
    try:
        _check(content, "model", file, 0, itertools.count())
    except (IndexError, ValueError) as error:
        raise UserError(f"{file} is not a complete ONNX file; export the policy again") from error


def _check(message: memoryview, kind: str, file: Path, depth: int, fields: Iterator[int]) -> None:
    if depth > _MAX_DEPTH:
        raise UserError(f"{file} is nested too deeply; export the policy again")
    for number, value in _fields(message):
        if next(fields) >= _MAX_FIELDS:
            raise UserError(f"{file} has more than {_MAX_FIELDS} fields; export the policy again")
        if kind == "tensor" and (number == _EXTERNAL_DATA or (number == _DATA_LOCATION and value != 0)):
            raise UserError(f"{file} keeps weights in other files, which are not opened; export it as one file")
        if kind == "node" and number == _DOMAIN and (domain := _text(value)) not in _DOMAINS:
            raise UserError(f"{file} uses operators of {domain[:50]!r}, not ONNX's own; export the policy again")
        if (child := _FIELDS[kind].get(number)) is not None:
            if not isinstance(value, memoryview):
                raise ValueError("a number where a message belongs")
            _check(value, child, file, depth + 1, fields)


def _text(value: int | memoryview) -> str:
    return bytes(value).decode() if isinstance(value, memoryview) else str(value)


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Field numbers and values of a protobuf message. Raises IndexError or ValueError where it is damaged."""
    place = 0
    while place < len(message):
        key, place = _number(message, place)
        number, wire = key >> 3, key & 7
        if number == 0:
            raise ValueError("a field without a number")
        if wire == 0:
            value, place = _number(message, place)
            yield number, value
            continue
        if wire == 2:
            size, place = _number(message, place)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError("an unknown kind of field")
        if place + size > len(message):
            raise ValueError("cut short")
        if wire == 2:
            yield number, message[place : place + size]
        place += size


def _number(message: memoryview, place: int) -> tuple[int, int]:
    """A variable-length number at a place, and the place after it."""
    value = 0
    for shift in range(0, 70, 7):
        byte = message[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
    raise ValueError("a number of more than ten bytes")
