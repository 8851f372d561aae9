"""Process that writes a recording: frames from stdin into a LeRobotDataset, until stdin ends."""

import contextlib
import json
import os
import pickle
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from tinyvla.errors import one_line

EPISODE_ENDS, READY = "episode ends", "ready"
# Almost lossless, since policies are trained on it; frequent key frames for random access.
_VIDEO = {"vcodec": "h264", "pix_fmt": "yuv444p", "crf": 10, "preset": "ultrafast", "g": 5}
_WAITING = 3000  # images of a camera that may wait for the encoder


class RecordingPlan(NamedTuple):
    """Content of a recording, see `Recorder`. cameras: height and width by name."""

    root: Path
    joints: tuple[str, ...]
    cameras: dict[str, tuple[int, int]]
    fps: int
    robot_type: str

    def features(self) -> dict[str, dict[str, Any]]:
        """Features of the dataset."""
        names = [f"{joint}.pos" for joint in self.joints]
        pose = {"dtype": "float32", "shape": (len(names),), "names": names}
        images = {
            f"observation.images.{camera}": {
                "dtype": "video",
                "shape": (height, width, 3),
                "names": ["height", "width", "channels"],
            }
            for camera, (height, width) in self.cameras.items()
        }
        flag = {"dtype": "bool", "shape": (1,), "names": None}
        return images | {"observation.state": pose, "action": pose, "policy_action": pose, "intervention": flag}


def write(stream: BinaryIO, ready: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """Write the messages of a `Recorder`: a RecordingPlan, then frames, and EPISODE_ENDS after each episode.

    The end of the stream, also in the middle of an episode or of a frame, ends the recording, which is complete then;
    the folder of a recording without frames is removed.
    Calls `ready` once it can take frames, and returns the numbers of episodes and frames.
    """
    plan: RecordingPlan = pickle.load(stream)
    plan.root.parent.mkdir(parents=True, exist_ok=True)  # a faulty place is reported before the slow imports
    from lerobot.configs.video import RGBEncoderConfig
    from lerobot.datasets import LeRobotDataset

    _silence_libraries()
    dataset = LeRobotDataset.create(
        f"local/{plan.root.name}",
        plan.fps,
        plan.features(),
        root=plan.root,
        robot_type=plan.robot_type,
        use_videos=True,
        video_backend="pyav",
        rgb_encoder=RGBEncoderConfig(**_VIDEO),
        streaming_encoding=True,
        encoder_queue_maxsize=_WAITING,
        encoder_threads=1,
    )
    try:
        ready()
        for message in _messages(stream):
            if message != EPISODE_ENDS:
                dataset.add_frame(message)
            elif dataset.has_pending_frames():
                dataset.save_episode()
        if dataset.has_pending_frames():
            dataset.save_episode()
    finally:
        dataset.finalize()
        if not dataset.meta.total_frames:  # such a dataset cannot be opened
            shutil.rmtree(plan.root)
    return {"episodes": dataset.meta.total_episodes, "frames": dataset.meta.total_frames}


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
        answer = {"error": f"{type(error).__name__}: {one_line(error, None)}"}
    with contextlib.suppress(BrokenPipeError):  # a run that was killed does not listen
        os.write(sys.stdout.fileno(), json.dumps(answer).encode() + b"\n")
    while sys.stdin.buffer.read(1 << 20):  # after an error the run goes on without a recording
        pass


def _silence_libraries() -> None:
    import av
    import datasets

    datasets.disable_progress_bars()
    av.logging.set_libav_level(av.logging.ERROR)
