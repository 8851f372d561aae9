"""Person at the terminal who sets an arm up."""

import select
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass

from tinyvla.errors import UserError

_NO_TERMINAL = "this step asks a person to move the arm; run it in a terminal"


_CLEAR_LINE = "\r\033[K"


def _say(text: str) -> None:
    print(f"{_CLEAR_LINE if sys.stdout.isatty() else ''}{text}", flush=True)


def _show(text: str) -> None:
    if sys.stdout.isatty():
        print(f"{_CLEAR_LINE}{text[: shutil.get_terminal_size().columns - 1]}", end="", flush=True)


def _ask(prompt: str) -> str:
    try:
        return input(prompt)
    except EOFError as error:
        raise UserError(_NO_TERMINAL) from error


def _enter_pressed() -> bool:
    if not select.select([sys.stdin], [], [], 0)[0]:
        return False
    if not (typed := sys.stdin.readline()):
        raise UserError(_NO_TERMINAL)
    return not typed.strip()


@dataclass(frozen=True)
class Person:
    """Person who is asked and shown things.

    Args:
        say: shows a line.
        show: shows a line in place of the one before.
        ask: shows a prompt, waits for Enter and returns what was typed.
        enter_pressed: returns True if Enter was pressed since the last call.
    """

    say: Callable[[str], None] = _say
    show: Callable[[str], None] = _show
    ask: Callable[[str], str] = _ask
    enter_pressed: Callable[[], bool] = _enter_pressed
