"""Whether a person counts as being in view: a detector's probabilities, made steady and made safe.

Pure: it reads no clock, so every time is given, in seconds on any one clock that does not go back.
"""

import math
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from ...errors import UserError


class Reason(StrEnum):
    """Why a person counts as being in view, or why none does."""

    EMPTY = "empty"
    PERSON = "person"
    HOLDING = "holding"  # nobody is seen any more, but not for long enough
    NO_FRAME = "no_frame"  # there is no frame that is new enough
    FROZEN = "frozen"  # the camera repeats one frame
    FAILED = "failed"  # the detector failed on the newest frame


@dataclass(frozen=True)
class GateLimits:
    """How a gate decides (docs/person-detection.md). Raises UserError for what makes no sense.

    on, off: a person counts as seen from frames of probability `on`, and as gone with those below `off`.
    on_count: frames in a row from `on` that it takes.
    hold_s: seconds without any trouble before it opens again.
    stale_s: seconds without a frame after which a person might be there unseen.
    repeat_s: seconds of exactly repeated frames after which the camera counts as frozen; None: pictures without noise,
        such as drawn ones, may repeat as they like.
    """

    on: float = 0.5
    off: float = 0.3
    on_count: int = 2
    hold_s: float = 2.0
    stale_s: float = 0.5
    repeat_s: float | None = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.off <= self.on <= 1:
            raise UserError(f"the gate's off={self.off:g} and on={self.on:g} must be 0 <= off <= on <= 1; change them")
        if self.on_count < 1:
            raise UserError(f"the gate's on_count={self.on_count} is none; give 1 frame or more")
        for name, value in (("hold_s", self.hold_s), ("stale_s", self.stale_s), ("repeat_s", self.repeat_s)):
            if value is not None and not (0 < value < math.inf or (value == 0 and name == "hold_s")):
                raise UserError(f"the gate's {name}={value:g} is no duration; give a number of seconds above 0")


class PersonGate:
    """Remembers what a detector said of the frames of one camera; anybody may ask whether a person is in view.

    It errs on the side of people: before the first frame, when frames stop, repeat exactly or jump in time, and when
    the detector fails or says what is no number, a person counts as being in view.

        gate = PersonGate(GateLimits(on=0.6))
        gate.see(frame_time, detector(frame), frame)
        if gate.person_in_view(now): ...
    """

    def __init__(self, limits: GateLimits | None = None) -> None:
        self.limits = limits or GateLimits()
        self._time = -math.inf  # of the newest frame
        self._until = -math.inf  # holds the gate closed
        self._above = 0  # frames in a row from `on`
        self._raised = self._failed = False
        self._seen = False  # whether the newest frame by itself is reason enough
        self._picture: np.ndarray | None = None
        self._changed = -math.inf  # when a frame last differed from the one before

    def see(self, time: float, probability: float, picture: np.ndarray | None = None) -> None:
        """What the detector says of a frame.

        Args:
            time: when the frame was taken. One that is no newer than the last is no news.
            probability: that a person is in it.
            picture: the frame itself, any shape, by which repeated ones are found. It is kept, not copied.
        """
        if not self._is_news(time):
            return
        self._failed = False
        if picture is None or self._picture is None or not np.array_equal(picture, self._picture):
            self._changed = time
        self._picture = picture
        self._judge(time, probability)
        self._time = time
        if self._frozen():
            self._hold(time)

    def fail(self, time: float) -> None:
        """The detector failed on the frame of this time."""
        if self._is_news(time):
            self._time, self._failed = time, True
            self._hold(time)

    def reason(self, now: float) -> Reason:
        """Why a person counts as being in view now, or `EMPTY`."""
        if not abs(now - self._time) <= self.limits.stale_s:  # from the future is no better; NaN is neither
            return Reason.NO_FRAME
        if self._failed:
            return Reason.FAILED
        if self._frozen():
            return Reason.FROZEN
        if self._seen:
            return Reason.PERSON
        return Reason.HOLDING if now < self._until else Reason.EMPTY

    def person_in_view(self, now: float) -> bool:
        """Whether a person counts as being in view at the time `now`."""
        return self.reason(now) != Reason.EMPTY

    def _is_news(self, time: float) -> bool:
        """Whether a frame is newer than the last; after a gap or at the start the gate is held closed for a while."""
        if time <= self._time:
            return False
        if not time - self._time <= self.limits.stale_s:
            self._hold(time)
            self._above, self._changed = 0, time
        return True

    def _judge(self, time: float, probability: float) -> None:
        """Debounce and hysteresis."""
        limits = self.limits
        sure, gone = not probability < limits.on, probability < limits.off  # NaN is no all-clear
        self._above = self._above + 1 if sure else 0
        if self._above >= limits.on_count:
            self._raised = True
        elif gone and time >= self._until:
            self._raised = False
        self._seen = self._raised and not gone
        if self._seen:
            self._hold(time)

    def _frozen(self) -> bool:
        limit = self.limits.repeat_s
        return limit is not None and self._time - self._changed >= limit

    def _hold(self, time: float) -> None:
        self._until = max(self._until, time + self.limits.hold_s)
