"""Settings of a benchmark: a dataclass, read from `key=value` arguments as those of the entry points are.

A benchmark has this form:

    @dataclass
    class Settings:
        checkpoint: str = required("run folder or checkpoint")
        episodes: int = setting(20, "episodes per task")

    def main(settings: Settings) -> None: ...

    if __name__ == "__main__":
        start(main, Settings, __doc__)
"""

import shlex
import sys
import textwrap
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from dataclasses import MISSING, asdict, field, fields
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from tinyvla.decoding import decode_section
from tinyvla.errors import UserError, did_you_mean, one_line

USER_ERROR, INTERRUPTED = 2, 130
_RUN: dict[str, Any] = {}  # of this process, set by `start`
WIDEST_KEY, LINE = 32, 120  # characters


def setting(default: Any, comment: str, choices: Iterable[str] = ()) -> Any:
    """Field of a settings dataclass with its default and the comment that `--help` shows.

    choices: values that the setting, or every item of it, may have; none: any.
    """
    metadata = {"comment": comment, "choices": tuple(choices)}
    return field(default_factory=lambda: deepcopy(default), metadata=metadata)


def required(comment: str) -> Any:
    """Field of a settings dataclass that the command line must set."""
    return field(metadata={"comment": comment, "choices": ()})


def read_settings[T](cls: type[T], arguments: Sequence[str]) -> T:
    """Settings from `key=value` arguments, values as YAML: `tasks=[reach-v3,push-v3]`, `device=null`.

    Raises UserError for an argument without `=`, an unknown key or choice (naming the nearest) and a value of
    another type.
    """
    for argument in arguments:
        if "=" not in argument or argument.startswith("-"):
            keys = ", ".join(f"{option.name}=..." for option in fields(cls))  # type: ignore[arg-type]
            raise UserError(f"'{argument}' is not a setting; settings are {keys}")
    try:
        values: Any = OmegaConf.to_container(OmegaConf.from_dotlist(list(arguments)), resolve=True)
    except (OmegaConfBaseException, YAMLError) as error:
        raise UserError(f"a value is not valid YAML ({one_line(error)}); put it in quotes") from error
    settings = decode_section(cls, values)
    for option in fields(cls):  # type: ignore[arg-type]
        value = getattr(settings, option.name)
        for item in value if isinstance(value, list) else [value]:
            if (choices := option.metadata["choices"]) and item not in choices:
                raise UserError(f"{option.name} has no choice '{item}'; {did_you_mean(item, choices)}")
    return settings


def describe_settings(cls: type) -> str:
    """Text of `--help`: `key=default`, comment and choices of every setting, in two columns."""
    lines = []
    for option in fields(cls):
        default = option.default_factory() if option.default_factory is not MISSING else "???"
        choices = f" ({', '.join(option.metadata['choices'])})" if option.metadata["choices"] else ""
        lines.append((f"{option.name}={_as_argument(default)}", option.metadata["comment"] + choices))
    width = min(WIDEST_KEY, max(len(key) for key, _ in lines))
    comments = textwrap.TextWrapper(LINE - width - 4)
    indent = f"\n{' ' * (width + 4)}"
    return "\n".join(
        f"  {key.ljust(width)}{'  ' if len(key) <= width else indent}{indent.join(comments.wrap(comment))}"
        for key, comment in lines
    )


def as_values(settings: Any) -> dict[str, Any]:
    """Settings by name as JSON can hold them."""
    return {name: _plain(value) for name, value in asdict(settings).items()}


def describe_run() -> dict[str, Any]:
    """Command line of the benchmark that this process runs, and all of its settings; empty outside of `start`."""
    return dict(_RUN)


def start[T](main: Callable[[T], None], cls: type[T], description: str | None) -> None:
    """Run `main` with the settings of the command line; `--help` prints the description and every setting instead.

    A UserError is printed as one line on stderr with exit code 2, Ctrl-C exits with 130.
    """
    arguments = sys.argv[1:]
    if {"--help", "-h"} & set(arguments):
        print(f"{(description or '').strip()}\n\nSettings (key=default):\n\n{describe_settings(cls)}")
        sys.exit(0)
    try:
        settings = read_settings(cls, arguments)
        _RUN.update(command=_command(arguments), settings=as_values(settings))
        main(settings)
    except UserError as error:
        print(f"error: {one_line(error, None)}", file=sys.stderr)
        sys.exit(USER_ERROR)
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)


def _command(arguments: Sequence[str]) -> str:
    """Command line of this process, with settings as they were given."""
    module = sys.modules["__main__"].__spec__
    return shlex.join(["python", *(["-m", module.name] if module else [sys.argv[0]]), *arguments])


def _plain(value: Any) -> Any:
    """A value as JSON can hold it."""
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _as_argument(value: Any) -> str:
    """A value as it is written on a command line."""
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_as_argument, value))}]"
    return str(value).lower() if isinstance(value, bool) else "null" if value is None else str(value)
