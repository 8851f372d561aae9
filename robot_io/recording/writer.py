"""Process that writes a recording: frames from stdin into a LeRobotDataset, until stdin ends."""

import contextlib
import errno
import gc
import json
import os
import pickle
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np

from tinyvla.errors import UserError, one_line

from .rollback import Rollback

if TYPE_CHECKING:
    from lerobot.datasets import LeRobotDataset

EPISODE_COMPLETE, READY = "episode complete", "ready"
SUCCESS, JUDGED = "next.success", "judged"  # columns of a recording that is judged; LeRobot knows the first
# Almost lossless, since policies are trained on it; frequent key frames for random access.
_VIDEO = {"vcodec": "h264", "pix_fmt": "yuv444p", "crf": 10, "preset": "ultrafast", "g": 5}
_WAITING = 3000  # images of a camera that may wait for the encoder
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class EpisodeEnd(NamedTuple):
    """End of an episode. keep: False throws it away. success: as judged; None: not judged."""

    keep: bool = True
    success: bool | None = None


class RecordingPlan(NamedTuple):
    """Content of a recording, see `Recorder`.

    Args:
        cameras: height and width by name.
        of_policy: with the columns of a policy's run, see `Recorder`; its last episode is written though it broke off.
        resume: append to the dataset in `root`.
    """

    root: Path
    joints: tuple[str, ...]
    cameras: dict[str, tuple[int, int]]
    fps: int
    robot_type: str
    of_policy: bool = True
    resume: bool = False

    def features(self) -> dict[str, dict[str, Any]]:
        """Features of the dataset."""
        names = [f"{joint}.pos" for joint in self.joints]
        pose = {"dtype": "float32", "shape": (len(names),), "names": names}
        features: dict[str, dict[str, Any]] = {
            f"observation.images.{camera}": {
                "dtype": "video",
                "shape": (height, width, 3),
                "names": ["height", "width", "channels"],
            }
            for camera, (height, width) in self.cameras.items()
        }
        features |= {"observation.state": pose, "action": pose}
        if self.of_policy:
            flag = {"dtype": "bool", "shape": (1,), "names": None}
            features |= {"policy_action": pose, "intervention": flag, SUCCESS: flag, JUDGED: flag}
        return features


class EpisodeWriter:
    """LeRobotDataset to which whole episodes are added: each has files of its own, and they are closed with it.

    So what ends a recording, a full disk or a kill, costs the episode that is being written and no other.

    Attributes:
        episodes, frames: of the dataset, in whole episodes.
    """

    def __init__(self, plan: RecordingPlan) -> None:
        self._plan, self._rollback = plan, Rollback(plan.root)
        if plan.resume:
            self._rollback.take_back()
        dataset = _open(plan, new=not plan.resume)
        if plan.resume:
            _check_same(plan, dataset)
        self._dataset: LeRobotDataset | None = dataset
        self.episodes, self.frames = dataset.meta.total_episodes, dataset.meta.total_frames

    def add(self, frame: dict[str, Any]) -> None:
        """Add a frame to the present episode."""
        if (dataset := self._dataset) is None:
            dataset = self._dataset = _open(self._plan, new=False)
        if not dataset.has_pending_frames():
            self._rollback.begin()
        blank = {key: np.array([False]) for key in (SUCCESS, JUDGED) if self._plan.of_policy}
        dataset.add_frame(frame | blank)

    def end(self, end: EpisodeEnd) -> None:
        """Write the present episode, if it has frames, or throw it away."""
        from policies.data.whole_videos import whole_videos

        dataset = self._dataset
        if dataset is None or not dataset.has_pending_frames():
            return
        if not end.keep:
            dataset.clear_episode_buffer()
            self._rollback.finish()
            return
        if self._plan.of_policy and end.success is not None:
            columns = dataset.writer.episode_buffer
            columns[JUDGED] = [~flag for flag in columns[JUDGED]]
            columns[SUCCESS][-1] = columns[SUCCESS][-1] | end.success
        with whole_videos():
            dataset.save_episode()
        dataset.finalize()
        self.episodes, self.frames = dataset.meta.total_episodes, dataset.meta.total_frames
        self._rollback.finish()
        self._dataset = None  # opened again for the next episode, which then gets files of its own

    def close(self, broken: bool = False) -> None:
        """Leave a dataset that can be opened, or no folder if it has no episode.

        broken: writing has failed, so the present episode is taken back.
        """
        if self._dataset is not None:
            with contextlib.suppress(Exception) if broken else contextlib.nullcontext():
                self._dataset.clear_episode_buffer()
                self._dataset.finalize()
        self._dataset = None
        gc.collect()  # LeRobot's writers write what they still hold when they are collected: not after the rollback
        self._rollback.take_back()
        if not self.episodes:  # such a dataset cannot be opened
            shutil.rmtree(self._plan.root, ignore_errors=broken)


def _open(plan: RecordingPlan, new: bool) -> "LeRobotDataset":
    from lerobot.configs.video import RGBEncoderConfig
    from lerobot.datasets import LeRobotDataset

    options: dict[str, Any] = {
        "root": plan.root,
        "video_backend": "pyav",
        "rgb_encoder": RGBEncoderConfig(**_VIDEO),
        "streaming_encoding": True,
        "encoder_queue_maxsize": _WAITING,
        "encoder_threads": 1,
    }
    name = f"local/{plan.root.name}"
    if not new:
        return LeRobotDataset.resume(name, **options)
    features = plan.features()
    return LeRobotDataset.create(name, plan.fps, features, robot_type=plan.robot_type, use_videos=True, **options)


def _check_same(plan: RecordingPlan, dataset: "LeRobotDataset") -> None:
    """Raise UserError unless a dataset has the features and the rate of the plan."""
    if dataset.meta.fps != plan.fps:
        raise UserError(f"it has {dataset.meta.fps} frames per second, and the control loop {plan.fps}")
    planned, present = plan.features(), dataset.meta.features
    for key, feature in planned.items():
        if key not in present:
            raise UserError(f"it has no {key}")
        if tuple(present[key]["shape"]) != tuple(feature["shape"]):
            shapes = ["x".join(map(str, shape)) for shape in (present[key]["shape"], feature["shape"])]
            raise UserError(f"its {key} is {shapes[0]}, not {shapes[1]}")
        if present[key]["dtype"] != feature["dtype"]:
            raise UserError(f"its {key} is {present[key]['dtype']}, not {feature['dtype']}")
        if feature["dtype"] != "video" and list(present[key]["names"] or []) != list(feature["names"] or []):
            raise UserError(f"its {key} has other names than {', '.join(feature['names'])}")
    columns = {"timestamp", "frame_index", "episode_index", "index", "task_index"}
    if more := sorted(set(present) - set(planned) - columns):
        raise UserError(f"it also has {', '.join(more)}")


def write(stream: BinaryIO, ready: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """Write the messages of a `Recorder`: a RecordingPlan, then frames, and an EpisodeEnd after each episode.

    The end of the stream, also in the middle of a frame, ends the recording, which can be opened then. The last episode
    is kept if it is a policy's, or if EPISODE_COMPLETE came. The folder of a recording without episodes is removed.

    Calls `ready` once it can take frames. Returns the numbers of episodes and frames of the dataset, and the error that
    ended the recording, if there was one: then every episode before it is whole.
    """
    plan: RecordingPlan = pickle.load(stream)
    plan.root.parent.mkdir(parents=True, exist_ok=True)  # a faulty place is reported before the slow imports
    _silence_libraries()
    writer, keep = EpisodeWriter(plan), plan.of_policy
    error: dict[str, str] = {}
    ready()
    try:
        for message in _messages(stream):
            if message == EPISODE_COMPLETE:
                keep = True
            elif isinstance(message, EpisodeEnd):
                writer.end(message)
                keep = plan.of_policy
            else:
                writer.add(message)
        writer.end(EpisodeEnd(keep))
        writer.close()
    except Exception as fault:
        error = {"error": _describe(fault, plan.root)}
    if error:  # the exception, whose frames hold the dataset, is gone by now
        writer.close(broken=True)
    return {"episodes": writer.episodes, "frames": writer.frames} | error


def _describe(error: Exception, root: Path) -> str:
    """Cause of a recording's end. An encoder's thread wraps it, so the disk is asked too."""
    with contextlib.suppress(OSError):
        if getattr(error, "errno", None) in _FULL or shutil.disk_usage(root).free < 1 << 20:
            return "the disk is full"
    return f"{type(error).__name__}: {one_line(error, None)}"


def _messages(stream: BinaryIO) -> Any:
    while True:
        try:
            yield pickle.load(stream)
        except (EOFError, pickle.UnpicklingError):  # a run that was killed may leave half a message
            return


def serve() -> None:
    """Run the process. Its last line on stdout is the result of `write`, or the error."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it ends when the run does
    try:
        answer = write(sys.stdin.buffer, lambda: print(READY, flush=True))
    except Exception as error:
        name = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
        answer = {"error": f"{name}{one_line(error, None)}"}
    with contextlib.suppress(BrokenPipeError):  # a run that was killed does not listen
        os.write(sys.stdout.fileno(), json.dumps(answer).encode() + b"\n")
    while sys.stdin.buffer.read(1 << 20):  # after an error the run goes on without a recording
        pass


def _silence_libraries() -> None:
    import av
    import datasets

    datasets.disable_progress_bars()
    av.logging.set_libav_level(av.logging.ERROR)
