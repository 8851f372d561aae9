"""Recorder of a run's episodes while they are played; the control loop only puts every tick into a queue."""

import contextlib
import json
import pickle
import queue
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tinyvla.errors import UserError
from tinyvla.processes import ChildProcess

from .writer import EPISODE_ENDS, READY, RecordingPlan, serve

if TYPE_CHECKING:  # the writer's process needs none of it
    from ..deployment.episodes import Episode, Tick

_ENDED = "the process that writes it has ended"
_WAITING = 900  # ticks that may wait for the writer; more are lost, and counted


class Recorder:
    """Writes a run as a LeRobotDataset; one episode of the run is one episode of the dataset.

    Features: images, observation.state, action (as sent), policy_action (command of the policy) and intervention (true
    while a person had taken over). A process of its own writes it, so that a tick never waits for a disk or an encoder,
    and so that the recording is complete and readable after any end of the run: an error, Ctrl-C, or a kill. Close it,
    or use it as a context.

    Args:
        root: folder of the dataset, which must not exist.
        joints: names of the numbers in state and action.
        cameras: height and width by name.
        rate_hz: of the control loop.
        robot_type: name of the robot.

    Raises UserError if it cannot be written.
    """

    def __init__(
        self,
        root: Path,
        joints: Sequence[str],
        cameras: Mapping[str, tuple[int, int]],
        rate_hz: float,
        robot_type: str,
    ) -> None:
        if root.exists():
            raise UserError(f"{root} exists already; choose another run_dir")
        if rate_hz != round(rate_hz):
            raise UserError(
                f"a recording has a whole number of frames per second and safety.rate_hz is {rate_hz:g}; set "
                f"safety.rate_hz={round(rate_hz)}, or record=false"
            )
        self.root = root
        self._cameras = list(cameras)
        self._lost = 0
        self._result: dict[str, Any] | None = None
        self._instruction = ""
        plan = RecordingPlan(root.absolute(), tuple(joints), dict(cameras), round(rate_hz), robot_type)
        self._process = ChildProcess(serve)
        self._queue: queue.Queue[Any] = queue.Queue(_WAITING)
        self._sender = threading.Thread(target=self._send, name="recorder", daemon=True)
        self._queue.put(plan)
        self._sender.start()
        # Wait before the arm may move: the process takes seconds to start, and no tick is to be lost.
        if (answer := self._process.stdout.readline().decode().strip()) != READY:
            self.close()
            raise UserError(f"{root} cannot be recorded: {_error_in(answer)}; choose another run_dir, or record=false")

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def begin(self, episode: "Episode") -> None:
        self._instruction = episode.instruction

    def observe(self, tick: "Tick") -> None:
        """Record a tick; with a full queue the tick is lost, so that the arm does not wait."""
        frame = {f"observation.images.{camera}": tick.observation[camera] for camera in self._cameras}
        frame |= {
            "observation.state": tick.position.astype(np.float32),
            "action": tick.sent.astype(np.float32),
            "policy_action": tick.policy_pose.astype(np.float32),
            "intervention": np.array([tick.intervention]),
            "task": self._instruction,
        }
        try:
            self._queue.put_nowait(frame)
        except queue.Full:
            self._lost += 1

    def end(self, result: Mapping[str, Any]) -> None:
        self._queue.put(EPISODE_ENDS)

    def close(self) -> dict[str, Any]:
        """Wait until everything is written. Returns episodes, frames, lost ticks, and the error, if there was one."""
        if self._result is None:
            self._queue.put(None)
            self._sender.join()
            answer = self._process.stdout.read()
            self._process.stdout.close()
            self._process.wait()
            self._result = {"folder": str(self.root), "lost": self._lost}
            lines = answer.decode().splitlines()
            self._result |= json.loads(lines[-1]) if lines else {"error": _ENDED}
        return self._result

    def report(self) -> dict[str, Any]:
        return {"recording": self.close()}

    def _send(self) -> None:
        stream = self._process.stdin
        working = True
        while (message := self._queue.get()) is not None:
            try:
                if working:
                    pickle.dump(message, stream, pickle.HIGHEST_PROTOCOL)
                    stream.flush()
            except OSError:  # the writer has ended; its answer says why
                working = False
        with contextlib.suppress(OSError):
            stream.close()


def _error_in(answer: str) -> str:
    return str(json.loads(answer)["error"]) if answer else _ENDED
