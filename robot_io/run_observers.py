"""Observers of a run on an arm as the settings ask for them: the recording, the live view and the live page."""

import contextlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from .live_page import LivePage
from .live_view import LiveView
from .recording import Recorder

if TYPE_CHECKING:
    from .deployment.episodes import EpisodeObserver
    from .safety import SafetyLayer


@contextlib.contextmanager
def open_observers(
    layer: "SafetyLayer", cameras: Iterable[str], recorder: Recorder | None, display: bool, live_page: int | None
) -> Iterator[list["EpisodeObserver"]]:
    """Open a run's observers for the block.

    Args:
        layer: of the run.
        cameras: names of those to show on the live page.
        recorder: of the run's episodes.
        display: show the run in the Rerun viewer.
        live_page: port of the live page, whose address is printed; None: no page.
    """
    with contextlib.ExitStack() as stack:
        observers: list[EpisodeObserver] = []
        if display:
            observers.append(stack.enter_context(LiveView(layer.joints)))
        if live_page is not None:
            page = stack.enter_context(LivePage(layer, tuple(cameras), live_page))
            print(f"live page: {page.address}", flush=True)
            observers.append(page)
        if recorder is not None:
            observers.append(stack.enter_context(recorder))
        yield observers
