"""Commands and files that must stay untouched, and the ways to hide them in a stranger's files."""

import ctypes
import os
import pickle
import struct
import time
from pathlib import Path
from typing import Any

_OPENED, _IS_FOLDER = 0x20, 0x40000000  # of inotify


class Trap:
    """A command that leaves a file if it is run, and a folder outside of the stranger's that must not be opened.

    Args:
        place: an empty folder.
    """

    def __init__(self, place: Path):
        self.file, self.bait = place / "canary", place / "bait"
        self.bait.mkdir()
        self.command = f"touch {self.file}"
        self._watch = -1

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)

    def pickled(self) -> bytes:
        """A pickle that runs the command where it is loaded."""
        return pickle.dumps(self)

    def module(self) -> str:
        """Source of a module that runs the command where it is imported, with a class that a file may name."""
        return (
            f"import os\nos.system({self.command!r})\nfrom transformers import PretrainedConfig\n\n\n"
            "class Canary(PretrainedConfig):\n    model_type = 'canary'\n"
        )

    def template(self) -> str:
        """A template of jinja that runs the command where it is rendered without a sandbox."""
        return f"{{{{ cycler.__init__.__globals__.os.system({self.command!r}) }}}}"

    def watch(self) -> None:
        """Begin to record who opens files of the bait folder, in any process and language."""
        libc = ctypes.CDLL(None, use_errno=True)
        self._watch = libc.inotify_init1(os.O_NONBLOCK)
        if self._watch < 0 or libc.inotify_add_watch(self._watch, os.fsencode(self.bait), _OPENED) < 0:
            raise OSError(ctypes.get_errno(), "inotify")

    def has_run(self, wait_s: float = 1.0) -> bool:
        """True if the command has run, or a file of the bait folder was opened since `watch`; ends the watch.

        wait_s: seconds in which a process that was started, and not waited for, may still run it.
        """
        deadline = time.monotonic() + wait_s
        while not self.file.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        has_opened = False
        if self._watch >= 0:
            try:
                events = os.read(self._watch, 1 << 20)
            except BlockingIOError:
                events = b""
            os.close(self._watch)
            self._watch = -1
            place = 0
            while place < len(events):
                _, mask, _, size = struct.unpack_from("iIII", events, place)
                place += 16 + size
                has_opened |= not mask & _IS_FOLDER
        return self.file.exists() or has_opened
