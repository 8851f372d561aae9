"""Judge of a policy's episodes where no simulation knows their success: a person at the terminal."""

from collections.abc import Callable, Mapping
from typing import Any

from .episodes import Episode, Tick

_ASK_S = 20.0  # seconds after an episode in which it may be judged


class Judge:
    """Keys y (success) and n (failure), in an episode, which they end, or within 20 s of its end (`EpisodeControl`).

    Without an answer the episode stays unjudged and the run goes on.

    Args:
        asks: False, as without a terminal: nothing is asked, and no key judges.
        ends_episodes: False: an episode is judged only after its end, as the keys mean something else before.
    """

    def __init__(self, asks: bool, ends_episodes: bool = True) -> None:
        self._asks, self._ends_episodes = asks, asks and ends_episodes
        self._success: bool | None = None
        self._listening = False

    def keys(self) -> dict[str, Callable[[], bool]]:
        """Actions by key of the terminal; each returns True if it used the key."""
        return {"y": lambda: self.answer(True), "n": lambda: self.answer(False)}

    def answer(self, success: bool) -> bool:
        """Judge the running episode, or the last one after its end; False if neither can be judged."""
        if not self._listening:
            return False
        self._success = success
        return True

    def begin(self, episode: Episode) -> None:
        self._success, self._listening = None, self._ends_episodes

    def observe(self, tick: Tick) -> None:
        pass

    def end(self, result: Mapping[str, Any]) -> None:
        pass

    def report(self) -> dict[str, Any]:
        return {}

    def is_over(self) -> bool:
        return self._success is not None

    def complete(self, result: dict[str, Any]) -> float:
        if result["success"] is not None or self._success is not None or not self._asks:
            return 0.0
        self._listening = True
        print(f"  success? y or n, within {_ASK_S:.0f} s; otherwise it is not judged", flush=True)
        return _ASK_S

    def pause_is_over(self) -> bool:
        return self._success is not None

    def settle(self, result: dict[str, Any]) -> None:
        self._listening = False
        if result["success"] is None:
            result["success"] = self._success
