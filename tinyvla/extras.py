"""Optional packages: imports that name the extra to install when they are missing."""

import contextlib
from collections.abc import Iterator

from .errors import UserError, one_line


@contextlib.contextmanager
def needs_extra(extra: str, feature: str) -> Iterator[None]:
    """Import optional packages inside this context; a missing one is a UserError that names its extra.

    Args:
        extra: a key of `[project.optional-dependencies]` in pyproject.toml.
        feature: the setting or function that needs the package, for the message.
    """
    try:
        yield
    except ImportError as error:
        raise UserError(
            f"{feature} needs {error.name or one_line(error)}; install it: uv sync --extra {extra} (in a clone) "
            f"or pip install 'lerobot_policy_tinyvla[{extra}]'"
        ) from error
