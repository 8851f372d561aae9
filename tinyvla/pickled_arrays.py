"""NumPy arrays in a pickle from strangers, read without unpickling: its operations are parsed, never carried out."""

import pickletools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .errors import UserError, one_line
from .untrusted import check_regular

_MAX_BYTES = 16 << 20
_MARK = object()
_FAULTS = (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, UnicodeDecodeError)
# Operations that push their argument, and those that push a constant.
_LITERALS = {
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE"),
    *("BINBYTES", "SHORT_BINBYTES"),
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": (), "MARK": _MARK}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


@dataclass(eq=False)
class _Record:
    """An object as a pickle describes it: the name of its maker, the maker's arguments, its state."""

    maker: str
    arguments: Any
    state: Any = None


def read_pickled_arrays(file: Path) -> dict[str, np.ndarray]:
    """Arrays by name in a pickled dict of NumPy arrays, of pickle's protocols 3 and 4.

    Raises UserError for a damaged file, one of more than 16 MB, and any other content: a pickle may name code.
    """
    check_regular(file, _MAX_BYTES)
    try:
        content = _parse(file.read_bytes())
        return {name: _array(record) for name, record in content.items()}
    except _FAULTS as error:
        raise UserError(
            f"{file} is not a pickled dict of NumPy arrays ({one_line(error, 120)}); get the original file"
        ) from error


def _parse(content: bytes) -> dict[Any, Any]:
    """The dict that a pickle describes, with a `_Record` in the place of every object. Raises one of _FAULTS."""
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    argument: Any
    for opcode, argument, _ in pickletools.genops(content):
        name = opcode.name
        if name in ("PROTO", "FRAME"):
            continue
        if name == "STOP":
            break
        if name in _LITERALS:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name == "EMPTY_DICT":
            stack.append({})
        elif name in _TUPLES:
            stack[-_TUPLES[name] :] = [tuple(stack[-_TUPLES[name] :])]
        elif name == "TUPLE":
            stack.append(tuple(_pop_to_mark(stack)))
        elif name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[len(memo) if argument is None else argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            stack.append(argument.replace(" ", ".") if name == "GLOBAL" else ".".join(_pop(stack, 2)))
        elif name == "REDUCE":
            stack.append(_Record(*_pop(stack, 2)))
        elif name == "BUILD":
            state = stack.pop()
            stack[-1].state = state
        elif name in ("SETITEM", "SETITEMS"):
            items = _pop(stack, 2) if name == "SETITEM" else _pop_to_mark(stack)
            if not all(isinstance(key, str) for key in items[::2]):  # the hash of a nested key may take for ever
                raise ValueError("a key is not a text")
            stack[-1].update(zip(items[::2], items[1::2], strict=True))
        else:
            raise ValueError(f"it has the operation {name}")
    (result,) = stack
    if not isinstance(result, dict):
        raise ValueError(f"it holds a {type(result).__name__}")
    return result


def _pop(stack: list[Any], count: int) -> list[Any]:
    values = stack[-count:]
    del stack[-count:]
    return values


def _pop_to_mark(stack: list[Any]) -> list[Any]:
    start = next((place for place in reversed(range(len(stack))) if stack[place] is _MARK), None)
    if start is None:
        raise ValueError("a mark is missing")
    values = stack[start + 1 :]
    del stack[start:]
    return values


def _array(record: Any) -> np.ndarray:
    """The array of floats that a record describes."""
    if not isinstance(record, _Record) or record.maker.split(".")[-2:] != ["multiarray", "_reconstruct"]:
        raise ValueError("it holds other objects than arrays")
    _, shape, kind, is_fortran, content = record.state
    code, order = kind.arguments[0], kind.state[1]
    if kind.maker != "numpy.dtype" or code not in ("f4", "f8") or order not in ("<", "="):
        raise ValueError("an array is not of floats")
    values = np.frombuffer(content, np.dtype(code).newbyteorder("<"))
    return values.reshape(shape, order="F" if is_fortran else "C").astype(np.float64)
