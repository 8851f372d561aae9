"""A person detector of `tinyvla.frontends.wake`, gated, as the safety layer's person watcher runs it."""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pydoc import locate
from typing import Any

import numpy as np
from lerobot.robots import Robot

from tinyvla.errors import UserError
from tinyvla.frontends import load_frontend
from tinyvla.frontends.wake import GateLimits, PersonGate, Wake

from .safety import PersonDetector, PersonView, PersonWatcher, SafetyLimits

logger = logging.getLogger(__name__)


class GatedDetector:
    """A `PersonDetector` whose word has passed a `PersonGate`: 1.0 while a person counts as being in view, else 0.0.

    `PersonWatcher` runs it on the camera's frames, and the layer stops the arm when the frames stop. A detector that
    fails, and a camera that repeats itself, are told as a person at once.

    Other threads may ask `gate`, or the safety layer's report.
    """

    def __init__(self, detector: PersonDetector, gate: PersonGate, clock: Callable[[], float] = time.monotonic) -> None:
        self.gate = gate
        self._detector, self._clock = detector, clock
        self._lock = threading.Lock()

    def __call__(self, image: np.ndarray) -> float:
        taken = self._clock()
        try:
            probability = float(self._detector(image))
        except Exception:
            logger.exception("the person detector failed; a person counts as being in view")
            with self._lock:
                self.gate.fail(taken)
            return 1.0
        with self._lock:
            self.gate.see(taken, probability, image)
            return float(self.gate.person_in_view(taken))

    def person_in_view(self, now: float | None = None) -> bool:
        """Whether a person counts as being in view, for other threads."""
        with self._lock:
            return self.gate.person_in_view(self._clock() if now is None else now)


_REPEAT_S = 1.0  # seconds of the same frame after which a camera with a noisy sensor counts as frozen


def load_person_gate(settings: Mapping[str, Any], limits: SafetyLimits, drawn: bool = False) -> GatedDetector | None:
    """The gate that deploy.yaml's `person_gate` describes; None if it names no checkpoint.

    Waiting until nobody was seen for a while is left to the safety layer (`safety.person.resume_s`).

    Args:
        settings: checkpoint, a folder that `load_frontend` takes; from_probability and below_probability, the gate's
            on and off in place of the checkpoint's; on_count and repeat_s as of `GateLimits`, repeat_s also "auto".
        limits: whose `person` must be enabled.
        drawn: the pictures are a simulation's, which repeat while nothing moves.

    Raises UserError if there is no person detector in the checkpoint, or the safety layer would not listen.
    """
    if (checkpoint := settings["checkpoint"]) is None:
        return None
    if not limits.person.enabled:
        raise UserError("person_gate.checkpoint has no effect while the gate is off; add safety.person.enabled=true")
    wake = load_frontend(checkpoint)
    if not isinstance(wake, Wake):
        raise UserError(f"{checkpoint} is a {wake.name}, not a person detector; train one: task=perception/wake")
    repeat_s = settings["repeat_s"]
    if repeat_s == "auto":
        repeat_s = None if drawn else _REPEAT_S
    gate = PersonGate(
        GateLimits(
            on=wake.on if settings["from_probability"] is None else settings["from_probability"],
            off=wake.off if settings["below_probability"] is None else settings["below_probability"],
            on_count=settings["on_count"],
            hold_s=0.0,
            stale_s=limits.person.frame_s,
            repeat_s=repeat_s,
        )
    )
    wake.probability(np.zeros((64, 64, 3), np.uint8))  # the first time takes longest
    return GatedDetector(wake.probability, gate)


class PersonCamera:
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
def watch_for_people(
    detector: str | PersonDetector | None, camera: str, limits: SafetyLimits
) -> Iterator[PersonCamera | None]:
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
        yield PersonCamera(watcher, camera)
