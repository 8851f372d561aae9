"""Report of the safety layer: number, causes and times of its interventions."""

import logging
import math
from enum import StrEnum
from typing import Any

import numpy as np

logger = logging.getLogger(__name__)


class Cause(StrEnum):
    """Cause of a changed command, in the order of the stages."""

    NOT_FINITE = "not_finite"
    JOINT_LIMIT = "joint_limit"
    SPEED = "speed"
    ACCELERATION = "acceleration"
    JERK = "jerk"
    WORKSPACE = "workspace"
    TABLE = "table"
    SELF_COLLISION = "self_collision"
    LOAD = "load"
    LAG = "lag"
    TEMPERATURE = "temperature"
    NO_READING = "no_reading"
    NO_COMMAND = "no_command"
    RETREAT = "retreat"
    PERSON = "person"
    NO_FRAME = "no_frame"
    RESUMING = "resuming"
    EMERGENCY_STOP = "emergency_stop"
    EARLY_TICK = "early_tick"
    LATE_TICK = "late_tick"


# Part of following any command, and too frequent to log one by one.
QUIET = {Cause.JOINT_LIMIT, Cause.SPEED, Cause.ACCELERATION, Cause.JERK, Cause.EARLY_TICK, Cause.LATE_TICK}
GAP_S = 0.3
_LOG_INTERVAL_S = 1.0  # seconds between two warnings of one cause on the log
CAUSES = tuple(Cause)
_INDEX = {cause: index for index, cause in enumerate(CAUSES)}


class Interventions:
    """Counts and times of every cause. All memory is allocated at the start.

    An intervention is a sequence of ticks with the same cause, with gaps of up to GAP_S seconds.

    Args:
        log_size: number of interventions, the last ones, whose times are stored.
    """

    def __init__(self, log_size: int = 512) -> None:
        self.ticks = 0
        self._ticks = [0] * len(CAUSES)
        self._interventions = [0] * len(CAUSES)
        self._now, self._last_s = [False] * len(CAUSES), [-math.inf] * len(CAUSES)
        self._warned_s = [-math.inf] * len(CAUSES)
        self._number = [0] * len(CAUSES)  # number of each cause's last intervention
        self._log = np.zeros(log_size, [("cause", np.int64), ("start_s", np.float64), ("end_s", np.float64)])
        self._logged = 0

    def note(self, cause: Cause) -> None:
        """Count a cause that has changed the command of this tick."""
        self._now[_INDEX[cause]] = True

    def close(self, time: float) -> None:
        """End a tick at a time in monotonic seconds."""
        self.ticks += 1
        for index, noted in enumerate(self._now):
            if noted:
                self._ticks[index] += 1
                if time - self._last_s[index] > GAP_S:
                    self._begin(index, time)
                if self._logged - self._number[index] <= len(self._log):
                    self._log["end_s"][self._number[index] % len(self._log)] = time
                self._now[index], self._last_s[index] = False, time

    def _begin(self, index: int, time: float) -> None:
        self._interventions[index] += 1
        self._number[index] = self._logged
        self._log[self._logged % len(self._log)] = (index, time, time)
        self._logged += 1
        if CAUSES[index] not in QUIET and time - self._warned_s[index] >= _LOG_INTERVAL_S:
            self._warned_s[index] = time
            logger.warning("safety: %s at %.3f s", CAUSES[index], time)

    def counts(self) -> dict[str, dict[str, int]]:
        """Ticks and interventions by cause, of those that occurred."""
        return {
            str(cause): {"ticks": self._ticks[i], "interventions": self._interventions[i]}
            for i, cause in enumerate(CAUSES)
            if self._ticks[i]
        }

    def to_dict(self) -> dict[str, Any]:
        """Ticks and interventions by cause (those that occurred), and the last interventions with their times.

        Times are monotonic seconds: `start_s` of the first tick of an intervention, `end_s` of its last.
        """
        numbers = range(max(0, self._logged - len(self._log)), self._logged)
        entries = [self._log[number % len(self._log)] for number in numbers]
        log = [
            {
                "cause": str(CAUSES[entry["cause"]]),
                "start_s": float(entry["start_s"]),
                "end_s": float(entry["end_s"]),
            }
            for entry in entries
        ]
        return {"ticks": self.ticks, "causes": self.counts(), "log": log}
