"""Bytes of a message, checked before protobuf makes objects of them; limits that the server and its clients share."""

import re
from collections.abc import Mapping
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError, Message

from tinyvla.errors import UserError, one_line

PROTOCOL = 1
SERVICE = "/tinyvla.policy_service.PolicyService/"
MAX_REQUEST = 32 << 20  # bytes; images of five cameras of two megapixels
MAX_ANSWER = 4 << 20
MAX_TEXT = 4096  # bytes of a text
MAX_TOKEN = 1024
# An empty field has two bytes on the wire and a hundred in memory, so their number is bounded as well.
_MAX_FIELDS = 4096
_MAX_PACKED = 16384 * 8  # bytes of a list of numbers
_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5
_TYPES_ON_WIRE = {
    FieldDescriptor.TYPE_UINT32: _VARINT,
    FieldDescriptor.TYPE_UINT64: _VARINT,
    FieldDescriptor.TYPE_BOOL: _VARINT,
    FieldDescriptor.TYPE_ENUM: _VARINT,
    FieldDescriptor.TYPE_DOUBLE: _EIGHT_BYTES,
}
# Options of gRPC on both sides. A compressed message may become a thousand times as large: only plain ones are taken.
CHANNEL_OPTIONS: dict[str, int] = {
    "grpc.compression_enabled_algorithms_bitset": 1,
    "grpc.default_compression_algorithm": 0,
    "grpc.enable_retries": 0,
}
_NAME = re.compile(r"\w[\w.-]{0,127}", re.ASCII)


class MessageError(UserError):
    """A message that the protocol does not allow."""


def is_checkpoint_name(name: str) -> bool:
    """True for a name that can be a checkpoint's: letters, digits, `_`, `-` and `.`, but no path."""
    return _NAME.fullmatch(name) is not None and ".." not in name


def printable(text: str, limit: int = 300) -> str:
    """A stranger's text on one line, without characters that control a terminal."""
    return one_line("".join(letter if letter.isprintable() else " " for letter in text[: 4 * limit]), limit)


def parse[M: Message](message_class: type[M], data: bytes) -> M:
    """Message of its bytes. Raises MessageError for bytes that are none, and for what the protocol does not have."""
    name = message_class.DESCRIPTOR.name
    fix = "use the same version of this program on both machines"
    try:
        _check(memoryview(data), message_class.DESCRIPTOR, [_MAX_FIELDS])
        return message_class.FromString(data)
    except MessageError as error:
        raise MessageError(f"the bytes of {name} are not valid: {error}; {fix}") from error
    except (DecodeError, IndexError, RecursionError) as error:
        raise MessageError(f"the bytes of {name} are damaged; {fix}") from error


def _check(data: memoryview, descriptor: Descriptor, fields_left: list[int]) -> None:
    """Raise MessageError, or IndexError where the bytes end too early, unless all fields are of the protocol."""
    fields: Mapping[int, Any] = descriptor.fields_by_number
    position = 0
    while position < len(data):
        fields_left[0] -= 1
        if fields_left[0] < 0:
            raise MessageError(f"it has more than {_MAX_FIELDS} fields")
        key, position = _varint(data, position)
        field, wire_type = fields.get(key >> 3), key & 7
        if field is None:
            raise MessageError(f"there is no field {key >> 3}")
        if wire_type == _VARINT == _TYPES_ON_WIRE.get(field.type):
            _, position = _varint(data, position)
        elif wire_type == _EIGHT_BYTES == _TYPES_ON_WIRE.get(field.type):
            position += 8
        elif wire_type == _LENGTH:
            length, position = _varint(data, position)
            _check_length(field, length)
            if field.type == FieldDescriptor.TYPE_MESSAGE:
                if length > len(data) - position:
                    raise IndexError
                _check(data[position : position + length], field.message_type, fields_left)
            position += length
        else:
            raise MessageError(f"{field.name} has another type")
    if position != len(data):
        raise IndexError


def _check_length(field: Any, length: int) -> None:
    """Raise MessageError for a text or a list that is too long, and a list where a single number belongs."""
    if field.type in _TYPES_ON_WIRE and (not _is_repeated(field) or length > _MAX_PACKED):
        raise MessageError(f"{field.name} is too long a list")
    if field.type == FieldDescriptor.TYPE_STRING and length > MAX_TEXT:
        raise MessageError(f"{field.name} is longer than {MAX_TEXT} bytes")


def _is_repeated(field: Any) -> bool:
    return field.is_repeated if hasattr(field, "is_repeated") else field.label == FieldDescriptor.LABEL_REPEATED


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    """Number at a position of the bytes, and the position after it. Raises IndexError where the bytes end."""
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise MessageError("a number is too long")
