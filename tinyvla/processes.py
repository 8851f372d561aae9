"""Child processes that run one function, connected by their stdin and stdout."""

import contextlib
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import IO, Any

from .errors import UserError

_READY = "ready"


class ChildProcess(subprocess.Popen):
    """Process that runs a module's function and ends when its stdin does, as it does when this process dies.

    multiprocessing would import the main module of this process, with all that it needs, in the child.
    The child has a session of its own: Ctrl-C is for this process.

    Args:
        function: of a module. It reads its messages from stdin and calls `report_ready` once it is ready.
    """

    stdin: IO[bytes]
    stdout: IO[bytes]

    def __init__(self, function: Callable[[], None]) -> None:
        super().__init__(
            [sys.executable, "-c", f"from {function.__module__} import {function.__name__} as run; run()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            start_new_session=True,
        )

    def send(self, message: Any) -> None:
        """Pickle a message to the child's stdin; nothing happens if the child has ended."""
        with contextlib.suppress(BrokenPipeError):
            pickle.dump(message, self.stdin)
            self.stdin.flush()

    def wait_until_ready(self, name: str) -> None:
        """Wait for the child's `report_ready`. name: of the process, for messages.

        Raises UserError with the line that the child prints instead, and RuntimeError if it ends without one.
        """
        answer = self.stdout.readline().decode().strip()
        if answer == _READY:
            return
        self.close()
        if answer:
            raise UserError(answer)
        raise RuntimeError(f"{name} ended with exit code {self.returncode} before it was ready")

    def close(self) -> None:
        """End the child and wait for it."""
        with contextlib.suppress(BrokenPipeError):
            self.stdin.close()
        self.wait()
        self.stdout.close()


def report_ready() -> None:
    """Report from the child that it is ready. A child that cannot start prints one line instead."""
    print(_READY, flush=True)
