"""Observer that shows a run on the live page; the control loop only puts ticks into a queue."""

import contextlib
import queue
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tinyvla.errors import UserError
from tinyvla.processes import ChildProcess

from .server import PagePlan, serve

if TYPE_CHECKING:
    from ..deployment.episodes import Episode, Tick
    from ..safety import SafetyLayer

_PORTS = range(1024, 65536)
_INTERVAL_S = 0.1  # between two ticks that are shown
_LONGEST_SIDE = 640  # pixels of an image on the page
_RESULTS = 100  # last episodes on the page


class LivePage:
    """Serves the newest tick of a run at http://127.0.0.1:<port>, to this machine only. Close it in the end.

    A process of its own encodes and serves the images; a thread sends it at most ten ticks per second.

    Args:
        layer: of the run; its interventions are shown.
        cameras: names of the cameras.
        port: of the page, 1024 to 65535.

    Raises UserError if the port cannot be used.
    """

    def __init__(self, layer: "SafetyLayer", cameras: Sequence[str], port: int) -> None:
        if port not in _PORTS:
            raise UserError(f"live_page={port} is not a port; give one from 1024 to 65535, such as 8765")
        self._layer, self._cameras = layer, list(cameras)
        self._episode: dict[str, Any] = {}
        self._results: list[dict[str, Any]] = []
        self._ticks = 0
        self._shown_at = -np.inf
        self._queue: queue.Queue[tuple[dict[str, Any], dict[str, np.ndarray]] | None] = queue.Queue(1)
        limits = {name: (joint.min, joint.max) for name, joint in layer.limits.joints.items()}
        self._process = ChildProcess(serve)
        self._process.send(PagePlan(port, limits, tuple(self._cameras), layer.limits.rate_hz))
        self._process.wait_until_ready("the live page")
        self.address = f"http://127.0.0.1:{port}"
        self._sender = threading.Thread(target=self._send, name="live page", daemon=True)
        self._sender.start()

    def __enter__(self) -> "LivePage":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def begin(self, episode: "Episode") -> None:
        self._episode = {"instruction": episode.instruction, "task": episode.task, "seconds": episode.seconds}
        self._ticks, self._shown_at = 0, -np.inf

    def observe(self, tick: "Tick") -> None:
        self._ticks += 1
        if tick.due - self._shown_at < _INTERVAL_S or self._queue.full():
            return
        self._shown_at = tick.due
        state = {
            "running": True,
            "ticks": self._ticks,
            "position": tick.position.tolist(),
            "sent": tick.sent.tolist(),
            "wanted": tick.policy_pose.tolist(),
            "intervention": bool(tick.intervention),
            "reaction": tick.reaction.name,
        }
        images = {camera: tick.observation[camera] for camera in self._cameras if camera in tick.observation}
        self._put(state, images)

    def end(self, result: Mapping[str, Any]) -> None:
        self._results.append({key: result.get(key) for key in ("instruction", "success", "seconds", "ended")})
        self._put({"running": False, "ticks": self._ticks}, {})

    def report(self) -> dict[str, Any]:
        return {}

    def close(self) -> None:
        """End the page's process."""
        if self._sender.is_alive():
            self._queue.put(None)
            self._sender.join()
        self._process.close()

    def _put(self, state: dict[str, Any], images: dict[str, np.ndarray]) -> None:
        causes = self._layer.report.counts()
        facts = {"episode": self._episode, "results": self._results[-_RESULTS:], "causes": causes}
        with contextlib.suppress(queue.Full):  # the page shows the next one
            self._queue.put_nowait((state | facts, images))

    def _send(self) -> None:
        while (message := self._queue.get()) is not None:
            state, images = message
            small = {camera: _thinned(image) for camera, image in images.items()}
            self._process.send((state, small))


def _thinned(image: np.ndarray) -> np.ndarray:
    """Every n-th pixel of a large image, which is enough for a page."""
    step = -(-max(image.shape[:2]) // _LONGEST_SIDE)
    return np.ascontiguousarray(image[::step, ::step])
