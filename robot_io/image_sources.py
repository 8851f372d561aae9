"""Images of a file, a video, or a camera."""

from collections.abc import Iterator
from pathlib import Path

import av
from lerobot.cameras import make_cameras_from_configs
from lerobot.cameras.opencv import OpenCVCameraConfig

from tinyvla.errors import UserError, one_line
from tinyvla.frontends import RgbImage, check_image, read_image

_VIDEOS = {".mp4", ".mkv", ".avi", ".mov", ".webm", ".m4v"}


def read_images(source: str, count: int) -> Iterator[RgbImage]:
    """Read at most `count` images, uint8 (H, W, 3), of `camera:<number or path>`, a video, or an image file.

    Raises UserError if there is no such camera or file, or it cannot be read.
    """
    if source.startswith("camera:"):
        return _of_camera(source.removeprefix("camera:"), count)
    if is_video(source):
        return _of_video(Path(source), count)
    return iter([read_image(source)])


def is_video(source: str) -> bool:
    """True if the source may have more than one image."""
    return source.startswith("camera:") or Path(source).suffix.lower() in _VIDEOS


def _of_video(path: Path, count: int) -> Iterator[RgbImage]:
    try:
        with av.open(str(path)) as container:
            for frame, _ in zip(container.decode(video=0), range(count), strict=False):
                yield check_image(frame.to_ndarray(format="rgb24"), f"the video {path}")
    except (av.FFmpegError, OSError, IndexError) as error:
        raise UserError(f"{path} is not a readable video ({error}); give source another file") from error


def _of_camera(name: str, count: int) -> Iterator[RgbImage]:
    config = OpenCVCameraConfig(index_or_path=int(name) if name.isdecimal() else Path(name))
    camera = make_cameras_from_configs({"camera": config})["camera"]
    try:
        camera.connect()
    except (OSError, RuntimeError, ValueError) as error:
        reason = one_line(error, 150)
        raise UserError(
            f"the camera {name} cannot be opened ({reason}); robot_setup.py step=find lists them"
        ) from error
    try:
        for _ in range(count):
            yield check_image(camera.async_read(2000), f"the camera {name}")
    finally:
        camera.disconnect()
