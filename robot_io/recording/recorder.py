"""Recorder of a run's episodes while they are played; the control loop only puts every tick into a queue."""

import contextlib
import json
import pickle
import queue
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tinyvla.errors import UserError
from tinyvla.processes import ChildProcess

from .rollback import recover
from .writer import EPISODE_COMPLETE, READY, EpisodeEnd, RecordingPlan, serve

if TYPE_CHECKING:  # the writer's process needs none of it
    from ..deployment.episodes import Episode, Tick

_ENDED = "the process that writes it has ended"
_WAITING = 900  # ticks that may wait for the writer; more are lost, and counted


def _complain(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Recorder:
    """Writes a run as a LeRobotDataset; one episode of the run is one episode of the dataset.

    Features: images, observation.state, action (as sent). A policy's run also has policy_action (command of the
    policy), intervention (true while a person had taken over), judged (true in the episodes whose success is known) and
    next.success (true in the last frame of a successful one). A process of its own writes it, so that a tick never
    waits for a disk or an encoder, and so that the recording is complete and readable after any end of the run: an
    error, Ctrl-C, or a kill. After a full disk it has the episodes before. Close it, or use it as a context.

    Args:
        root: folder of the dataset, which must not exist, unless `resume`.
        joints: names of the numbers in state and action.
        cameras: height and width by name.
        rate_hz: of the control loop.
        robot_type: name of the robot.
        of_policy: False for demonstrations: an episode that breaks off is then thrown away.
        resume: append to the dataset in `root`.
        fix: end of the error's sentence, for what the user may change.
        complain: called with one line at the moment when the writer fails.

    Raises UserError if it cannot be written.
    """

    def __init__(
        self,
        root: Path,
        joints: Sequence[str],
        cameras: Mapping[str, tuple[int, int]],
        rate_hz: float,
        robot_type: str,
        of_policy: bool = True,
        resume: bool = False,
        fix: str = "choose another run_dir, or record=false",
        complain: Callable[[str], object] = _complain,
    ) -> None:
        if root.exists() and not resume:
            raise UserError(f"{root} exists already; {fix}")
        if rate_hz != round(rate_hz):
            raise UserError(
                f"a recording has a whole number of frames per second and safety.rate_hz is {rate_hz:g}; set "
                f"safety.rate_hz={round(rate_hz)}, or record=false"
            )
        self.root = root
        self._cameras, self._of_policy, self._complain = list(cameras), of_policy, complain
        self._lost = 0
        self._answer: dict[str, Any] | None = None  # last line of the writer
        self._closed = False
        self._instruction = ""
        plan = RecordingPlan(
            root.absolute(), tuple(joints), dict(cameras), round(rate_hz), robot_type, of_policy, resume
        )
        self._process = ChildProcess(serve)
        self._queue: queue.Queue[Any] = queue.Queue(_WAITING)
        self._sender = threading.Thread(target=self._send, name="recorder", daemon=True)
        self._reader = threading.Thread(target=self._read, name="recorder's answer", daemon=True)
        self._queue.put(plan)
        self._sender.start()
        # Wait before the arm may move: the process takes seconds to start, and no tick is to be lost.
        if (answer := self._process.stdout.readline().decode().strip()) != READY:
            self._answer = _parsed(answer)
            self.close()
            raise UserError(f"{root} cannot be recorded: {self._answer['error']}; {fix}")
        self._reader.start()

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def error(self) -> str | None:
        """Fault that has ended the recording; None while it goes on."""
        return None if self._answer is None else self._answer.get("error")

    def check(self) -> None:
        """Raise UserError if the recording has failed, for the end of the program."""
        if self.error:
            raise UserError(f"{self._describe_failure()}; free disk space, then record again")

    def begin(self, episode: "Episode") -> None:
        self._instruction = episode.instruction

    def observe(self, tick: "Tick") -> None:
        """Record a tick; with a full queue the tick is lost, so that the arm does not wait."""
        frame = {f"observation.images.{camera}": tick.observation[camera] for camera in self._cameras}
        frame |= {
            "observation.state": tick.position.astype(np.float32),
            "action": tick.sent.astype(np.float32),
            "task": self._instruction,
        }
        if self._of_policy:
            frame |= {
                "policy_action": tick.policy_pose.astype(np.float32),
                "intervention": np.array([tick.intervention]),
            }
        try:
            self._queue.put_nowait(frame)
        except queue.Full:
            self._lost += 1

    def complete(self) -> None:
        """Mark the present episode as whole: it is kept if the program dies before `end`."""
        self._queue.put(EPISODE_COMPLETE)

    def end(self, result: Mapping[str, Any]) -> None:
        """End the episode. Its result may say `success`, and whether it is `kept`: by default if it is a policy's."""
        self._queue.put(EpisodeEnd(result.get("kept", self._of_policy), result.get("success")))

    def close(self) -> dict[str, Any]:
        """Wait until everything is written. Returns episodes, frames, lost ticks, and the error, if there was one."""
        if not self._closed:
            self._closed = True
            self._queue.put(None)
            self._sender.join()
            if self._reader.ident is not None:
                self._reader.join()
            self._process.wait()
            self._process.stdout.close()
        return {"folder": str(self.root), "lost": self._lost} | (self._answer or {"error": _ENDED})

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

    def _read(self) -> None:
        """Wait for the writer's answer, which comes at its end, or at once when it fails."""
        answer = self._process.stdout.readline().decode().strip()
        self._answer = _parsed(answer) if answer else {"error": _ENDED} | recover(self.root)
        if self.error:
            self._complain(self._describe_failure())

    def _describe_failure(self) -> str:
        episodes = (self._answer or {}).get("episodes", 0)
        whole = f"the {episodes} episodes before are whole in {self.root}" if episodes else "nothing of it is kept"
        return f"the recording has stopped: {self.error}; {whole}"


def _parsed(answer: str) -> dict[str, Any]:
    return dict(json.loads(answer)) if answer else {"error": _ENDED}
