"""Person gate of an arm: a detector of `tinyvla.frontends.wake` on one of its cameras, for the safety layer."""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from pydoc import locate
from typing import Any, Literal

import numpy as np
from lerobot.robots import Robot

from tinyvla.errors import UserError
from tinyvla.frontends import load_frontend
from tinyvla.frontends.wake import GateLimits, PersonGate, Wake

from .arms import image_time, robot_cameras
from .safety import PersonDetector, PersonView, PersonWatcher, SafetyLimits

logger = logging.getLogger(__name__)

_REPEAT_S = 1.0  # seconds of the same frame after which a camera with a noisy sensor counts as frozen


@dataclass(frozen=True)
class PersonGateSettings:
    """Section `person_gate` of deploy.yaml, see docs/person-detection.md.

    Args:
        checkpoint: of task=perception/wake: a run folder, or a checkpoint's pretrained_model; None: no detector.
        camera: of the robot, that watches for people; None: the policy's first one.
        from_probability: probability from which a person is in view; None: the checkpoint's, found in training.
        below_probability: probability below which the person is gone; None: the checkpoint's.
        on_count: consecutive frames from `from_probability` until the gate closes.
        repeat_s: seconds of one repeated frame that count as a person; None: never; "auto": 1, never on the twin.
    """

    checkpoint: str | Path | None = None
    camera: str | None = None
    from_probability: float | None = None
    below_probability: float | None = None
    on_count: int = 2
    repeat_s: float | Literal["auto"] | None = "auto"


class GatedDetector:
    """`PersonDetector` whose probabilities have passed a `PersonGate`: 1.0 while a person is in view, else 0.0.

    `PersonWatcher` runs it on the camera's frames, and the safety layer stops the arm when the frames stop. A detector
    that fails, and a camera that repeats one frame, count as a person at once.

    Args:
        detector: probability that a person is in an image, uint8 (H, W, 3).
        gate: the debounce.
        clock: of monotonic seconds.
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
        """True if a person counts as being in view; for other threads."""
        with self._lock:
            return self.gate.person_in_view(self._clock() if now is None else now)


def load_person_gate(
    settings: PersonGateSettings, limits: SafetyLimits, simulated: bool = False
) -> GatedDetector | None:
    """Load the gate that the settings describe; None if they name no checkpoint.

    The pause after a person has left is part of the safety layer (`safety.person.resume_s`), not of the gate.

    Args:
        settings: of the gate.
        limits: whose `person` must be enabled.
        simulated: the images are a simulation's, which repeat while nothing moves.

    Raises UserError if the checkpoint does not hold a person detector, or the safety layer would not use it.
    """
    if settings.checkpoint is None:
        return None
    if not limits.person.enabled:
        raise UserError("person_gate.checkpoint has no effect while the gate is off; add safety.person.enabled=true")
    wake = load_frontend(settings.checkpoint)
    if not isinstance(wake, Wake):
        raise UserError(
            f"{settings.checkpoint} is a {wake.name}, not a person detector; train one: task=perception/wake"
        )
    repeat_s = settings.repeat_s
    if repeat_s == "auto":
        repeat_s = None if simulated else _REPEAT_S
    gate = PersonGate(
        GateLimits(
            on=wake.on if settings.from_probability is None else settings.from_probability,
            off=wake.off if settings.below_probability is None else settings.below_probability,
            on_count=settings.on_count,
            hold_s=0.0,
            stale_s=limits.person.frame_s,
            repeat_s=repeat_s,
        )
    )
    wake.probability(np.zeros((64, 64, 3), np.uint8))  # the first call takes longest
    return GatedDetector(wake.probability, gate)


class PersonCamera:
    """Hands every image of one camera in the control loop to a detector (`control_loop.PersonSensor`)."""

    def __init__(self, watcher: PersonWatcher, camera: str) -> None:
        self.camera, self._watcher = camera, watcher
        self._source: Any = None  # camera of LeRobot, None for an arm that does not list its cameras

    def attach(self, robot: Robot) -> None:
        """Use the camera of this arm. Raises UserError if it has no camera of that name."""
        features = robot.observation_features
        if self.camera not in features:
            cameras = ", ".join(name for name, shape in features.items() if isinstance(shape, tuple)) or "none"
            raise UserError(f"no person can be detected by {self.camera!r}; set person_gate.camera to one of {cameras}")
        self._source = robot_cameras(robot).get(self.camera)

    def observe(self, observation: Mapping[str, Any]) -> None:
        # LeRobot's cameras stamp images with time.perf_counter, which is the monotonic clock where arms run.
        taken = image_time(self._source) or time.monotonic()
        self._watcher.show(np.asarray(observation[self.camera]), taken)

    def view(self) -> PersonView | None:
        return self._watcher.view


@contextlib.contextmanager
def watch_for_people(
    detector: str | PersonDetector | None, camera: str, limits: SafetyLimits
) -> Iterator[PersonCamera | None]:
    """Run a person detector inside the block.

    Args:
        detector: callable from an image, uint8 (H, W, 3), to the probability of a person, or its dotted name.
        camera: whose images it gets.
        limits: of the arm.

    Raises UserError if the person gate is on without a detector, or the detector cannot be imported.
    """
    if detector is None:
        if limits.person.enabled:
            raise UserError(
                "safety.person.enabled=true needs a detector; give a trained one, person_gate.checkpoint=..., "
                "or name a callable, image -> probability: person_detector=package.module.detect"
            )
        yield None
        return
    detect: Any = locate(detector) if isinstance(detector, str) else detector
    if not callable(detect):
        raise UserError(f"person_detector={detector} cannot be imported; name a callable, as in package.module.detect")
    with PersonWatcher(detect) as watcher:
        yield PersonCamera(watcher, camera)


@contextlib.contextmanager
def connect_person_gate(
    settings: PersonGateSettings, detector: str | None, camera: str, limits: SafetyLimits, simulated: bool = False
) -> Iterator[PersonCamera | None]:
    """Run the gate that the settings describe, or else a detector, inside the block; None if neither is used.

    Args:
        settings: of the gate.
        detector: dotted name of a callable in its place.
        camera: that watches if the settings name none.
        limits, simulated: see `load_person_gate`.

    Raises UserError as `load_person_gate` and `watch_for_people`.
    """
    gate = load_person_gate(settings, limits, simulated)
    with watch_for_people(gate or detector, settings.camera or camera, limits) as person:
        yield person
