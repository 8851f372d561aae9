"""Cameras beyond LeRobot's own, by the names of their types: `twin`, a camera of the simulated arm; `video_file`."""

from .twin import TwinCamera, TwinCameraConfig
from .video_file import VideoFileCamera, VideoFileCameraConfig

__all__ = ["TwinCamera", "TwinCameraConfig", "VideoFileCamera", "VideoFileCameraConfig"]
