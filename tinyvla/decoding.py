"""Typed settings: a section of a configuration, decoded once into the dataclass that describes it."""

import contextlib
import dataclasses
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from .errors import UserError, nearest_names, one_line
from .ranges import RangeError

_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path"}


def decode_section[T](cls: type[T], section: Mapping[str, Any] | None, name: str = "") -> T:
    """Instance of the dataclass `cls` with the values of a section; a field that is left out has its default.

    Supports nested dataclasses, `X | None`, Literal, list, tuple, dict and `Any`, and bases whose subclasses register
    under a `type` (draccus' ChoiceRegistry). A whole number is accepted as a float, and 1e4 as a whole number.

    Args:
        cls: a dataclass. Its own checks raise ValueError in `__post_init__`.
        section: values by field name; None stands for an empty section.
        name: dotted name of the section in the configuration, such as "trainer"; for messages.

    Raises UserError for an unknown field (naming the nearest), for a missing one, and for a value of another type.
    """
    if section is not None and not isinstance(section, Mapping):
        raise UserError(f"{name or cls.__name__} is a section, not a value; set {_key(name, _fields(cls)[0].name)}")
    values = dict(section or {})
    if hasattr(cls, "get_choice_class") and "type" in values:
        cls = _choice(cls, values.pop("type"), name)
    fields = _fields(cls)
    names = [field.name for field in fields]
    if unknown := [key for key in values if key not in names]:
        raise UserError(f"unknown setting '{_key(name, unknown[0])}'; {_hint(unknown[0], names, name)}")
    hints = get_type_hints(cls)
    decoded = {key: _decode(hints[key], value, _key(name, key)) for key, value in values.items()}
    for field in fields:
        if field.name not in decoded and _is_required(field):
            raise UserError(f"{_key(name, field.name)} is not given; add {_key(name, field.name)}=...")
    try:
        return cls(**decoded)
    except RangeError as error:
        raise UserError(f"{_key(name, error.field)}={_text(error.value)} does not fit; {error.fault}") from error
    except ValueError as error:
        raise UserError(f"{name or cls.__name__} does not fit: {one_line(error)}; change that setting") from error


def _decode(hint: Any, value: Any, key: str) -> Any:
    """`value` as the annotation `hint` describes it. Raises UserError naming `key`."""
    origin = get_origin(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        return _decode_union(get_args(hint), value, key)
    if origin is Literal:
        return _decode_literal(get_args(hint), value, key)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return value if isinstance(value, hint) else decode_section(hint, value, key)
    container = origin or hint
    if container in (list, tuple, Sequence):
        return _decode_items(container, get_args(hint), value, key)
    if container in (dict, Mapping):
        return _decode_mapping(get_args(hint), value, key)
    return _decode_value(hint, value, key)


def _decode_value(kind: Any, value: Any, key: str) -> Any:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind is float and number:
        with contextlib.suppress(OverflowError):  # a whole number that is larger than any float
            return float(value)
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if kind is Path and isinstance(value, str | Path):
        return Path(value)
    if isinstance(kind, type) and isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    raise UserError(f"{key}={_text(value)} is not {_KINDS.get(kind, getattr(kind, '__name__', str(kind)))}")


def _decode_union(hints: Sequence[Any], value: Any, key: str) -> Any:
    if value is None and type(None) in hints:
        return None
    hints = [hint for hint in hints if hint is not type(None)]
    exact = [hint for hint in hints if isinstance(hint, type) and type(value) is hint]
    errors = []
    for hint in [*exact, *hints]:
        try:
            return _decode(hint, value, key)
        except UserError as error:
            errors.append(error)
    if len(hints) == 1:
        raise errors[0]
    choices = " or ".join(dict.fromkeys(_KINDS.get(hint, getattr(hint, "__name__", str(hint))) for hint in hints))
    raise UserError(f"{key}={_text(value)} is not {choices}")


def _decode_literal(choices: Sequence[Any], value: Any, key: str) -> Any:
    if value in choices:
        return value
    raise UserError(f"{key}={_text(value)} is not one of {', '.join(map(_text, choices))}")


def _decode_items(container: Any, hints: Sequence[Any], value: Any, key: str) -> Any:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise UserError(f"{key}={_text(value)} is not a list; write '{key}=[{_text(value)}]'")
    if container is not tuple:
        return [_decode(hints[0] if hints else Any, item, f"{key}[{i}]") for i, item in enumerate(value)]
    if not hints or hints[-1] is Ellipsis:
        hints = [hints[0] if hints else Any] * len(value)
    if len(hints) != len(value):
        raise UserError(f"{key} has {len(value)} values; give {len(hints)}")
    pairs = zip(hints, value, strict=True)
    return tuple(_decode(hint, item, f"{key}[{i}]") for i, (hint, item) in enumerate(pairs))


def _decode_mapping(hints: Sequence[Any], value: Any, key: str) -> dict[Any, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise UserError(f"{key} is a section, not a value; set {key}.<name>=...")
    return {name: _decode(hints[1] if hints else Any, item, _key(key, str(name))) for name, item in value.items()}


def _choice(cls: Any, choice: Any, name: str) -> Any:
    known = sorted(cls.get_known_choices())
    if choice not in known:
        raise UserError(f"{_key(name, 'type')} has no choice '{choice}'; {_hint(str(choice), known)}")
    return cls.get_choice_class(choice)


def _fields(cls: Any) -> list[Any]:
    return [field for field in dataclasses.fields(cls) if field.init]


def _is_required(field: Any) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _hint(word: str, known: Sequence[str], section: str = "") -> str:
    near = nearest_names(word, known, cutoff=0.6)
    if near:
        return f"did you mean {' or '.join(_key(section, name) for name in near)}?"
    return f"there is {', '.join(_key(section, name) for name in known)}"


def _key(section: str, name: str) -> str:
    return f"{section}.{name}" if section else name


def _text(value: Any) -> str:
    """`value` as it is written on a command line."""
    return str(value).lower() if isinstance(value, bool) else "null" if value is None else str(value)
