"""Errors that a user can fix, warnings, and the words they are reported with."""

import difflib
import functools
import sys
from collections.abc import Iterable


class UserError(Exception):
    """A mistake that the user can fix. The message is one line: the fault, then the fix.

    Entry points print it on stderr and exit with code 2. Any other exception is a bug and keeps its traceback.
    """


@functools.cache
def warn_once(line: str) -> None:
    """Print a warning on stderr, the same one once per process."""
    print(f"warning: {line}", file=sys.stderr, flush=True)


def one_line(error: BaseException | str, limit: int | None = 200) -> str:
    """Text of an error on one line, at most `limit` characters; the class's name if the error has no text."""
    text = " ".join(str(error).split())
    if not text and isinstance(error, BaseException):
        text = type(error).__name__
    return text[:limit]


def nearest_names(name: str, known: Iterable[str], n: int = 3, cutoff: float = 0.4) -> list[str]:
    """At most `n` of the known names, those most like `name` first; empty if none is alike."""
    return difflib.get_close_matches(str(name), list(dict.fromkeys(known)), n=n, cutoff=cutoff)


def did_you_mean(name: str, known: Iterable[str], n: int = 3, cutoff: float = 0.4) -> str:
    """A hint for an unknown name: "did you mean a or b?", or "there is a, b, c" if no known name is alike."""
    known = list(known)
    if near := nearest_names(name, known, n, cutoff):
        return f"did you mean {' or '.join(near)}?"
    return f"there is {', '.join(known)}"
