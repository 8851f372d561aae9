"""The person gate in a run: a detector that looks at one of the arm's cameras."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from pydoc import locate
from typing import Any

import numpy as np
from lerobot.robots import Robot

from tinyvla.errors import UserError

from ..safety import PersonDetector, PersonView, PersonWatcher, SafetyLimits


class PersonWatch:
    """Shows a detector every picture of a camera that the control loop sees."""

    def __init__(self, watcher: PersonWatcher, camera: str) -> None:
        self.camera, self._watcher = camera, watcher

    def view(self) -> PersonView | None:
        """For `ControlLoop.person`."""
        return self._watcher.view

    def before(self, policy: Callable[[dict[str, Any]], Any], arm: Robot) -> Callable[[dict[str, Any]], Any]:
        """For `ControlLoop.policy`: one that is asked after the detector was shown what it sees.

        Raises UserError if the arm has no such camera.
        """
        features = arm.observation_features
        if self.camera not in features:
            there = ", ".join(name for name, shape in features.items() if isinstance(shape, tuple)) or "none"
            raise UserError(f"nobody can watch for people by {self.camera!r}; set person_gate.camera to one of {there}")

        def show(observation: Mapping[str, Any]) -> None:
            camera = getattr(arm, "cameras", {}).get(self.camera)
            # LeRobot's cameras stamp pictures with time.perf_counter, which is the monotonic clock where arms run.
            taken = getattr(camera, "latest_timestamp", None) or time.monotonic()
            self._watcher.show(np.asarray(observation[self.camera]), taken)

        def asked(observation: dict[str, Any]) -> Any:
            show(observation)
            return policy(observation)

        return asked


@contextlib.contextmanager
def watch_people(
    detector: str | PersonDetector | None, camera: str, limits: SafetyLimits
) -> Iterator[PersonWatch | None]:
    """Run a detector for the while: a callable, picture uint8 (H, W, 3) -> probability of a person, or its dotted name.

    Raises UserError if the person gate is on without one, or there is none of that name.
    """
    if detector is None:
        if limits.person.enabled:
            raise UserError(
                "safety.person.enabled=true needs a detector; give a trained one, person_gate.checkpoint=..., "
                "or name a callable, picture -> probability: person_detector=package.module.detect"
            )
        yield None
        return
    detect: Any = locate(detector) if isinstance(detector, str) else detector
    if not callable(detect):
        raise UserError(f"person_detector={detector} cannot be imported; name a callable, as in package.module.detect")
    with PersonWatcher(detect) as watcher:
        yield PersonWatch(watcher, camera)
