"""Mutations of wire messages: of their bytes, and of the values of their fields."""

import random
from collections.abc import Sequence
from typing import Any

from google.protobuf.descriptor import FieldDescriptor

_NUMBERS = (0, 1, 2, 3, 127, 255, 4096, 65535, 2**31 - 1, 2**31, 2**32 - 1)
_LARGE = (2**32, 2**63 - 1, 2**63, 2**64 - 1)
_DOUBLES = (0.0, -1.0, 1e308, -1e308, float("inf"), float("nan"), 5e-324)
_TEXTS = (
    *("", "a", "..", "../outside", "/etc/passwd", "a/b", "reach", "observation.state", "action", "min", "min\0"),
    *("\x1b[2J", "line\nline", "é" * 100, "%s%n", "$(touch canary)", "a" * 4096, "a" * 5000, "file:///etc/passwd"),
)


def mutate_bytes(data: bytes, intact: Sequence[bytes], rng: random.Random) -> bytes:
    """Bytes with one to four random changes: flips, cuts, repetitions, other messages, long numbers, many fields."""
    for _ in range(rng.randint(1, 4)):
        start = rng.randint(0, len(data))
        end = rng.randint(start, min(len(data), start + rng.choice((1, 4, 16, 256, 1 << 20))))
        change = rng.randrange(9)
        if change == 0 and data:
            flipped = bytearray(data)
            for _ in range(rng.randint(1, 8)):
                flipped[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            data = bytes(flipped)
        elif change == 1:
            data = data[:start]
        elif change == 2:
            data = data[:start] + data[end:]
        elif change == 3:
            data = data[:end] + data[start:end] * rng.choice((1, 2, 50)) + data[end:]
        elif change == 4:
            data = data[:start] + rng.randbytes(rng.choice((1, 8, 64, 4096))) + data[end:]
        elif change == 5:
            data = data[:start] + rng.choice(intact)
        elif change == 6:
            data = data[:start] + b"\xff" * rng.randint(1, 12) + data[start:]
        elif change == 7:  # many empty fields
            data += bytes((rng.randrange(1, 16) << 3 | 2, 0)) * rng.choice((10, 5000, 500_000))
        else:
            data = rng.randbytes(rng.choice((0, 1, 20, 1000, 100_000)))
        data = data[: 8 << 20]
    return data


def mutate_fields(message: Any, rng: random.Random) -> None:
    """Change one to three values of a message, at any depth, in place."""
    for _ in range(rng.randint(1, 3)):
        _mutate_one(message, rng)


def _mutate_one(message: Any, rng: random.Random) -> None:
    fields = list(message.DESCRIPTOR.fields)
    if not fields:
        return
    field = rng.choice(fields)
    value = getattr(message, field.name)
    if field.is_repeated:
        _mutate_list(value, field, rng)
    elif field.type == FieldDescriptor.TYPE_MESSAGE:
        if rng.random() < 0.2:
            message.ClearField(field.name)
        else:
            _mutate_one(value, rng)
    else:
        setattr(message, field.name, _odd_value(field, value, rng))


def _mutate_list(values: Any, field: Any, rng: random.Random) -> None:
    change = rng.randrange(4)
    is_message = field.type == FieldDescriptor.TYPE_MESSAGE
    if change == 0:
        del values[rng.randint(0, len(values)) :]
    elif change == 1 and len(values):
        copies = [values[rng.randrange(len(values))] for _ in range(rng.choice((1, 3, 300)))]
        if sum(entry.ByteSize() if is_message else 8 for entry in copies) < 4 << 20:
            values.extend(copies)
    elif change == 2 or not len(values):
        if is_message:
            values.add()
        else:
            values.extend([_odd_value(field, None, rng)] * rng.choice((1, 5, 20_000)))
    elif is_message:
        _mutate_one(values[rng.randrange(len(values))], rng)
    else:
        values[rng.randrange(len(values))] = _odd_value(field, None, rng)


def _odd_value(field: Any, value: Any, rng: random.Random) -> Any:
    """Value of a field's type that is at or over an edge."""
    if field.type == FieldDescriptor.TYPE_STRING:
        return rng.choice(_TEXTS)
    if field.type == FieldDescriptor.TYPE_BYTES:
        data = value or b""
        return rng.choice(
            (b"", data[:-1], data + b"\0", data * 2, rng.randbytes(len(data)), b"\xff" * len(data), bytes(4 << 20))
        )
    if field.type == FieldDescriptor.TYPE_DOUBLE:
        return rng.choice(_DOUBLES)
    if field.type == FieldDescriptor.TYPE_BOOL:
        return not value
    if field.type == FieldDescriptor.TYPE_ENUM:
        return rng.choice((0, 1, 2, 3, 2**31 - 1))
    return rng.choice(_NUMBERS + (_LARGE if field.type == FieldDescriptor.TYPE_UINT64 else ()))
