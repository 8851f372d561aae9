"""Cameras beyond those of LeRobot: `twin`, a camera of the simulated arm, and `video_file`; see `registry`."""

from .twin import TwinCamera, TwinCameraConfig
from .video_file import VideoFileCamera, VideoFileCameraConfig

__all__ = ["TwinCamera", "TwinCameraConfig", "VideoFileCamera", "VideoFileCameraConfig"]
