"""Announcer of a recording: lines and a running count on the terminal, and cues to hear, from a thread of its own."""

import queue
import shutil
import subprocess
import sys
import threading
from typing import TextIO

from tinyvla.errors import UserError, did_you_mean

CUES = ("none", "beep", "speak")
_SPEAKERS = ("say", "espeak-ng", "espeak", "spd-say")  # programs that speak their argument
_REFRESH_S = 0.2  # seconds between two updates of the count
_BELL = "\a"


class Announcer:
    """Prints and speaks, so that the control loop waits for neither. Close it, or use it as a context.

    Args:
        cue: none; beep, the terminal's bell; or speak, with a program of the system.
        stream: terminal; the count is shown only if it is one.

    Raises UserError for an unknown cue, or if no program here can speak.
    """

    def __init__(self, cue: str = "none", stream: TextIO | None = None) -> None:
        if cue not in CUES:
            raise UserError(f"cue={cue} does not exist; {did_you_mean(cue, CUES)}")
        self._speaker = next(filter(None, map(shutil.which, _SPEAKERS)), None)
        if cue == "speak" and self._speaker is None:
            raise UserError("cue=speak finds no program that speaks; install espeak-ng, or use cue=beep")
        self._cue, self._stream = cue, stream or sys.stdout
        self._speaking: subprocess.Popen | None = None
        self._count = self._shown = ""
        self._queue: queue.Queue[tuple[str, str] | None] = queue.Queue()
        self._thread = threading.Thread(target=self._run, name="announcer", daemon=True)
        self._thread.start()

    def __enter__(self) -> "Announcer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def say(self, line: str, cue: str = "") -> None:
        """Print a line. cue: words to speak, or a beep in their place; none without them."""
        self._count = ""
        self._queue.put((line, cue))

    def count(self, text: str) -> None:
        """Show a text in place of the last one, on a terminal."""
        self._count = text

    def close(self) -> None:
        """Print what waits."""
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()

    def _run(self) -> None:
        while True:
            try:
                if (message := self._queue.get(timeout=_REFRESH_S)) is None:
                    return
            except queue.Empty:
                self._show_count()
                continue
            line, cue = message
            self._write(f"\r{line.ljust(len(self._shown))}\n" if self._shown else f"{line}\n")
            self._shown = ""
            if cue:
                self._give_cue(cue)

    def _show_count(self) -> None:
        if self._count != self._shown and self._stream.isatty():
            text, before = self._count, self._shown
            self._write(f"\r{text.ljust(len(before))}")
            self._shown = text

    def _give_cue(self, words: str) -> None:
        if self._cue == "beep":
            self._write(_BELL)
        elif self._cue == "speak" and self._speaker is not None:
            if self._speaking is not None and self._speaking.poll() is None:
                self._speaking.terminate()
            off = subprocess.DEVNULL
            self._speaking = subprocess.Popen([self._speaker, words], stdin=off, stdout=off, stderr=off)

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):  # of a terminal that was closed: the recording goes on
            self._cue = "none"
