"""Videos of a dataset that is being written are whole, or writing it fails."""

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch


class HeldUpEncoder(Exception):
    """A video was not encoded in two minutes, as when the program is stopped with Ctrl-Z and continued."""


@contextlib.contextmanager
def whole_videos() -> Iterator[None]:
    """Raise HeldUpEncoder where LeRobot would go on with half a video and no statistics of it.

    LeRobot waits two minutes for the encoder of an episode.
    """
    from lerobot.datasets.video_utils import StreamingVideoEncoder

    finish = StreamingVideoEncoder.finish_episode

    def finish_whole(encoder: StreamingVideoEncoder) -> dict[str, Any]:
        videos = finish(encoder)
        if late := [key for key, (_, statistics) in videos.items() if statistics is None]:
            raise HeldUpEncoder(f"the video of {late[0]} was not encoded in two minutes")
        return videos

    with patch.object(StreamingVideoEncoder, "finish_episode", finish_whole):
        yield
