"""Cameras beyond LeRobot's own, by the names of their types: `twin`, a camera of the simulated arm; `video_file`."""

from .sim import SimCamera, SimCameraConfig
from .video import VideoFileCamera, VideoFileCameraConfig

__all__ = ["SimCamera", "SimCameraConfig", "VideoFileCamera", "VideoFileCameraConfig"]
