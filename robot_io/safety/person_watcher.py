"""Person detector in a thread of its own, whose views carry the times of the frames."""

import logging
import threading
from collections.abc import Callable

import numpy as np

from .monitors import PersonView

logger = logging.getLogger(__name__)

# Probability that a person is in an image, (height, width, 3) uint8 RGB.
PersonDetector = Callable[[np.ndarray], float]


class PersonWatcher:
    """Runs a detector on the newest frame, without holding up the control loop.

    The loop (or a camera's thread) hands frames to `show` and reads `view`; a frame that comes while the detector is
    busy replaces the waiting one. A view has the time of its frame, so that a slow or dead detector makes views old,
    which the safety layer treats like a person.

        with PersonWatcher(detector) as watcher:
            watcher.show(image, frame_time)
            command = layer.step(now, action, state, watcher.view)
    """

    def __init__(self, detector: PersonDetector) -> None:
        self.view: PersonView | None = None
        self._detector = detector
        self._frame: tuple[np.ndarray, float] | None = None
        self._arrived = threading.Condition()
        self._leaving = False
        self._thread = threading.Thread(target=self._run, name="person detector", daemon=True)

    def __enter__(self) -> "PersonWatcher":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._arrived:
            self._leaving = True
            self._arrived.notify()
        self._thread.join()

    def show(self, image: np.ndarray, time: float) -> None:
        """Hand over a frame, (height, width, 3) uint8 RGB, and its time in monotonic seconds.

        The image is not copied: it must not be overwritten afterwards.
        """
        with self._arrived:
            self._frame = (image, time)
            self._arrived.notify()

    def _run(self) -> None:
        while True:
            with self._arrived:
                self._arrived.wait_for(lambda: self._leaving or self._frame is not None)
                if self._leaving:
                    return
                assert self._frame is not None
                image, taken = self._frame
                self._frame = None
            try:
                self.view = PersonView(float(self._detector(image)), taken)
            except Exception:
                # Without a new view the safety layer holds the arm when the last one is too old.
                logger.exception("the person detector failed on the frame of %.3f s", taken)
