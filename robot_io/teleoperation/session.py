"""Session of a recording: which episode comes next, which keys end it, and what becomes of it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tinyvla.arms.episode import Episode
from tinyvla.arms.simulated import SceneControl

from ..deployment.episodes import Tick, real_episodes
from ..recording import Recorder
from ..terminal import ESCAPE, RIGHT
from .announcer import Announcer

KEYS = "right arrow or n: end and keep, r: record again, d: discard, q or Esc: finish, space: emergency stop"
_KEEP, _AGAIN, _DISCARD = "keep", "record again", "discard"
_SLOW = 0.98  # share of the recording's rate below which an episode is reported as slow


def demonstrations(
    instruction: str, seconds: float | None, seeds: Sequence[int], twin: SceneControl | None = None
) -> Callable[[int], Episode]:
    """Function that makes a recording's episode from its number from 1.

    Args:
        instruction: of the task.
        seconds: until an episode ends by itself; None: only by key.
        seeds: of the twin's scene, one per episode.
        twin: that is reset for each episode; its scene says whether the task is done, which ends the episode.

    Raises UserError for a missing instruction or no time.
    """
    first = real_episodes(instruction, 1, seconds, None, 0)[0]

    def make(number: int) -> Episode:
        episode = replace(first, number=number, count=len(seeds), seed=seeds[number - 1])
        if twin is None:
            return episode
        return replace(
            episode,
            lay_out=lambda: twin.reset(episode.seed, move_arm=False),
            success=lambda: bool(twin.state()["success"]),
        )

    return make


class RecordingSession:
    """Sequence of episodes until enough are recorded or a person has finished (`EpisodeControl`, `EpisodeObserver`).

    An episode ends by key, after its time, or when its `success` says so; one without success after its time is
    recorded again. After it the person has `reset_s` seconds to prepare the scene, and may still reject it.

    Args:
        make_episode: episode by its number from 1.
        count: number of the last episode.
        recorder: of the episodes. Its failure ends the session.
        announcer: says what happens.
        reset_s: seconds between two episodes.
        done: episodes that the dataset has already.

    Attributes:
        number: of the present episode.
        recorded: number of episodes that this session has added.
    """

    def __init__(
        self,
        make_episode: Callable[[int], Episode],
        count: int,
        recorder: Recorder,
        announcer: Announcer,
        reset_s: float = 10.0,
        done: int = 0,
    ) -> None:
        self._make_episode, self._count, self._reset_s = make_episode, count, reset_s
        self._recorder, self._announcer = recorder, announcer
        self.number, self.recorded = done + 1, 0
        self._decision: str | None = None
        self._is_over = self._pausing = self._pause_is_over = self._finished = False
        self._first_due = self._last_due = 0.0
        self._ticks = 0

    def __iter__(self) -> Iterator[Episode]:
        while self.number <= self._count and not self._finished:
            yield self._make_episode(self.number)

    def keys(self) -> dict[str, Callable[[], bool]]:
        """Actions by key of the terminal. Each returns True, as no key is left to another program."""
        actions = {
            RIGHT: self.next,
            "n": self.next,
            "r": self.again,
            "d": self.discard,
            "q": self.finish,
            ESCAPE: self.finish,
            "t": lambda: None,  # takes over elsewhere; here the person steers all the time
        }
        return {key: lambda action=action: action() is None for key, action in actions.items()}  # type: ignore[misc]

    def next(self) -> None:
        """End the episode and keep it, or end the pause."""
        if self._pausing:
            self._pause_is_over = True
        else:
            self._decision, self._is_over = _KEEP, True

    def again(self) -> None:
        """Throw the episode away, the present one or in the pause the last one, and record it again."""
        self._reject(_AGAIN)

    def discard(self) -> None:
        """Throw it away and go on with the next number."""
        self._reject(_DISCARD)

    def finish(self) -> None:
        """End the session. An episode that is running is not kept."""
        self._finished = self._pause_is_over = True

    def _reject(self, decision: str) -> None:
        self._decision, self._is_over = decision, True
        if self._pausing:
            self._announcer.say(f"  {decision}", decision)

    def begin(self, episode: Episode) -> None:
        self._is_over, self._pause_is_over, self._decision, self._ticks = False, False, None, 0
        self._announcer.say(f"episode {self.number} of {self._count}: {episode.instruction}", f"episode {self.number}")

    def observe(self, tick: Tick) -> None:
        if not self._ticks:
            self._first_due = tick.due
        self._last_due = tick.due
        self._ticks += 1
        self._announcer.count(f"episode {self.number} of {self._count}, {tick.due - self._first_due:.1f} s")

    def is_over(self) -> bool:
        if self._recorder.error:
            self._finished = True
        return self._is_over or self._finished

    def complete(self, result: dict[str, Any]) -> float:
        if self._finished:
            self._decision = _DISCARD
        elif self._decision is None:
            self._decision = _AGAIN if result["success"] is False else _KEEP
        if self._decision == _KEEP:
            self._recorder.complete()
        seconds = self._last_due - self._first_due
        rate = (self._ticks - 1) / seconds if seconds > 0 else None
        result["measured_hz"] = None if rate is None else round(rate, 2)
        self._announcer.say(f"episode {self.number} of {self._count}: {self._decision}, {result['seconds']:.1f} s")
        planned = result["ticks"] / result["seconds"] if result["seconds"] else 0
        if rate is not None and rate < _SLOW * planned:
            self._announcer.say(f"  only {rate:.1f} frames per second, as this machine was busy")
        if self._finished or not self._reset_s:
            return 0.0
        self._pausing = True
        self._announcer.say(f"  reset the scene: {self._reset_s:.0f} s, n to go on at once", "reset")
        return self._reset_s

    def pause_is_over(self) -> bool:
        return self._pause_is_over or bool(self._recorder.error)

    def settle(self, result: dict[str, Any]) -> None:
        self._pausing = False
        result["kept"] = self._decision == _KEEP
        self.recorded += result["kept"]
        self.number += self._decision != _AGAIN

    def end(self, result: Mapping[str, Any]) -> None:
        pass

    def report(self) -> dict[str, Any]:
        return {"kept": self.recorded}
