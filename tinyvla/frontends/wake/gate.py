"""Person gate: decides from a detector's probabilities whether a person counts as in view, on the safe side.

It reads no clock: all times are arguments, in seconds of one monotonic clock.
"""

import math
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from ...errors import UserError


class Reason(StrEnum):
    """Reason why a person counts as in view, or `EMPTY`."""

    EMPTY = "empty"
    PERSON = "person"
    HOLDING = "holding"  # no person any more, but not for long enough
    NO_FRAME = "no_frame"  # the newest frame is too old
    FROZEN = "frozen"  # the camera repeats one frame
    FAILED = "failed"  # the detector failed on the newest frame


@dataclass(frozen=True)
class GateLimits:
    """Settings of a gate (docs/person-detection.md). Raises UserError for values out of range.

    on, off: probability from which a person counts as seen, and below which as gone.
    on_count: consecutive frames from `on` that close the gate.
    hold_s: seconds without a person or a fault before the gate opens.
    stale_s: seconds without a frame after which the gate closes.
    repeat_s: seconds of identical frames after which the camera counts as frozen; None: never, for images without
        noise, such as rendered ones.
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
            raise UserError(f"the gate's on_count={self.on_count} is too small; give 1 frame or more")
        for name, value in (("hold_s", self.hold_s), ("stale_s", self.stale_s), ("repeat_s", self.repeat_s)):
            if value is not None and not (0 < value < math.inf or (value == 0 and name == "hold_s")):
                raise UserError(f"the gate's {name}={value:g} is not a duration; give a number of seconds above 0")


class PersonGate:
    """State of the person detection on one camera.

    A person counts as in view also before the first frame, when frames stop, repeat exactly or jump in time, and when
    the detector fails or returns NaN.

        gate = PersonGate(GateLimits(on=0.6))
        gate.see(frame_time, detector(frame), frame)
        if gate.person_in_view(now): ...
    """

    def __init__(self, limits: GateLimits | None = None) -> None:
        self.limits = limits or GateLimits()
        self._time = -math.inf  # of the newest frame
        self._until = -math.inf  # the gate stays closed
        self._above = 0  # frames in a row from `on`
        self._raised = self._failed = False
        self._person = False  # in the newest frame, after debouncing
        self._image: np.ndarray | None = None
        self._changed = -math.inf  # when a frame last differed from the one before

    def see(self, time: float, probability: float, image: np.ndarray | None = None) -> None:
        """Record the detector's result for a frame.

        Args:
            time: of the frame. A frame that is not newer than the last one is ignored.
            probability: of a person in it.
            image: the frame, of any shape, to detect repeated frames. It is stored without a copy.
        """
        if not self._is_newer(time):
            return
        self._failed = False
        if image is None or self._image is None or not np.array_equal(image, self._image):
            self._changed = time
        self._image = image
        self._judge(time, probability)
        self._time = time
        if self._frozen():
            self._hold(time)

    def fail(self, time: float) -> None:
        """Record that the detector failed on the frame of this time."""
        if self._is_newer(time):
            self._time, self._failed = time, True
            self._hold(time)

    def reason(self, now: float) -> Reason:
        """Reason why a person counts as in view at the time `now`, or `EMPTY`."""
        if not abs(now - self._time) <= self.limits.stale_s:  # also for a frame from the future, and for NaN
            return Reason.NO_FRAME
        if self._failed:
            return Reason.FAILED
        if self._frozen():
            return Reason.FROZEN
        if self._person:
            return Reason.PERSON
        return Reason.HOLDING if now < self._until else Reason.EMPTY

    def person_in_view(self, now: float) -> bool:
        """True if a person counts as in view at the time `now`."""
        return self.reason(now) != Reason.EMPTY

    def _is_newer(self, time: float) -> bool:
        """True for a frame newer than the last. After a gap and at the start the gate is held closed for `hold_s`."""
        if time <= self._time:
            return False
        if not time - self._time <= self.limits.stale_s:
            self._hold(time)
            self._above, self._changed = 0, time
        return True

    def _judge(self, time: float, probability: float) -> None:
        """Apply debouncing and hysteresis."""
        limits = self.limits
        sure, gone = not probability < limits.on, probability < limits.off  # NaN counts as a person
        self._above = self._above + 1 if sure else 0
        if self._above >= limits.on_count:
            self._raised = True
        elif gone and time >= self._until:
            self._raised = False
        self._person = self._raised and not gone
        if self._person:
            self._hold(time)

    def _frozen(self) -> bool:
        limit = self.limits.repeat_s
        return limit is not None and self._time - self._changed >= limit

    def _hold(self, time: float) -> None:
        self._until = max(self._until, time + self.limits.hold_s)
