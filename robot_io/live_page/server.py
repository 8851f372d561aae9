"""Process that serves the live page: the newest state as JSON and the newest images as JPEG, to this machine only.

It only answers GET, for a few fixed paths, and only under the names of this machine, so that a page of another site
cannot read it through a name that it points here.
"""

import contextlib
import json
import pickle
import signal
import sys
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tinyvla.errors import one_line
from tinyvla.processes import report_ready

_PAGE = Path(__file__).with_name("page.html")
_POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'"
_FILES = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
}
_JPEG_QUALITY = 80


class PagePlan(NamedTuple):
    """Content of a live page. joints: lowest and highest value by name, in LeRobot's units. rate_hz: of the loop."""

    port: int
    joints: dict[str, tuple[float, float]]
    cameras: tuple[str, ...]
    rate_hz: float


class Newest:
    """Newest state and images of a run, shared between the thread that receives and those that answer."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._state: dict[str, Any] = {}
        self._images: dict[str, np.ndarray] = {}

    def update(self, state: dict[str, Any], images: dict[str, np.ndarray]) -> None:
        """Replace what is given; the joints of a state without them stay."""
        with self._lock:
            self._state = self._state | state
            self._images = self._images | images

    def state(self) -> dict[str, Any]:
        with self._lock:
            return self._state

    def image(self, camera: str) -> np.ndarray | None:
        with self._lock:
            return self._images.get(camera)


class PageServer(ThreadingHTTPServer):
    """HTTP server on this machine's own address."""

    daemon_threads = True

    def __init__(self, plan: PagePlan, newest: Newest) -> None:
        self.plan, self.newest = plan, newest
        self.hosts = {f"{name}:{plan.port}" for name in ("127.0.0.1", "localhost")}
        super().__init__(("127.0.0.1", plan.port), PageHandler)


class PageHandler(BaseHTTPRequestHandler):
    """Answers to the page and its requests."""

    server: PageServer

    def do_GET(self) -> None:
        if self.headers.get("Host") not in self.server.hosts:
            self.send_error(HTTPStatus.FORBIDDEN, "open it as http://127.0.0.1")
        elif self.path in _FILES:
            name, kind = _FILES[self.path]
            self._answer(kind, _PAGE.with_name(name).read_bytes())
        elif self.path == "/plan":
            plan = self.server.plan
            content = {"joints": plan.joints, "cameras": plan.cameras, "rate_hz": plan.rate_hz}
            self._answer("application/json", json.dumps(content).encode())
        elif self.path == "/state":
            self._answer("application/json", json.dumps(self.server.newest.state()).encode())
        else:
            self._answer_image()

    def _answer_image(self) -> None:
        """Answer /image/<number of the camera>, with any query, with its newest image."""
        prefix, _, number = self.path.partition("?")[0].rpartition("/")
        cameras = dict(enumerate(self.server.plan.cameras))
        camera = cameras.get(int(number)) if prefix == "/image" and number.isdecimal() and len(number) < 4 else None
        image = None if camera is None else self.server.newest.image(camera)
        if image is None:
            self.send_error(HTTPStatus.NOT_FOUND)
        else:
            self._answer("image/jpeg", encode(image))

    def _answer(self, kind: str, content: bytes) -> None:
        self.send_response(HTTPStatus.OK)
        for name, value in (
            ("Content-Type", kind),
            ("Content-Length", str(len(content))),
            ("Cache-Control", "no-store"),
            ("Content-Security-Policy", _POLICY),
            ("X-Content-Type-Options", "nosniff"),
        ):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):  # a tab that was closed
            super().handle()

    def log_message(self, format: str, *args: Any) -> None:
        pass


def encode(image: np.ndarray) -> bytes:
    """JPEG of an RGB image, uint8 (H, W, 3)."""
    import cv2

    quality = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
    return cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), quality)[1].tobytes()


def serve() -> None:
    """Run the process: a PagePlan on stdin, then states with images, until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it ends when the run does
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    plan: PagePlan = pickle.load(sys.stdin.buffer)
    newest = Newest()
    try:
        server = PageServer(plan, newest)
    except OSError as error:
        print(
            f"the port {plan.port} cannot be used ({one_line(error.strerror or error)}); choose another live_page",
            flush=True,
        )
        return
    with server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        report_ready()
        with contextlib.suppress(EOFError, pickle.UnpicklingError):  # a run that was killed may leave half a message
            while True:
                newest.update(*pickle.load(sys.stdin.buffer))
        server.shutdown()
