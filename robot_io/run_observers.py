"""Observers of a run on an arm as the settings ask for them: the recording and the live view."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from .live_view import LiveView
from .recording import Recorder

if TYPE_CHECKING:
    from .deployment.episodes import EpisodeObserver


@contextlib.contextmanager
def open_observers(
    joints: Sequence[str], recorder: Recorder | None, display: bool
) -> Iterator[list["EpisodeObserver"]]:
    """Open a run's observers for the block.

    Args:
        joints: names of the joints.
        recorder: of the run's episodes.
        display: show the run in the Rerun viewer.
    """
    with contextlib.ExitStack() as stack:
        observers: list[EpisodeObserver] = []
        if display:
            observers.append(stack.enter_context(LiveView(joints)))
        if recorder is not None:
            observers.append(stack.enter_context(recorder))
        yield observers
