"""Camera types by name, as `robot.cameras.<name>.type` selects them, on top of LeRobot's registry."""

import importlib
import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from lerobot.cameras import CameraConfig

from tinyvla.decoding import decode_section
from tinyvla.errors import UserError
from tinyvla.ranges import check_range
from tinyvla.registry import Registry

# Configuration class by type. The camera's class stands beside it in its module, without the suffix "Config".
CAMERAS = Registry(
    "camera",
    "tinyvla.cameras",
    {
        "opencv": "lerobot.cameras.opencv:OpenCVCameraConfig",
        "intelrealsense": "lerobot.cameras.realsense:RealSenseCameraConfig",
        "zmq": "lerobot.cameras.zmq:ZMQCameraConfig",
        "reachy2_camera": "lerobot.cameras.reachy2_camera:Reachy2CameraConfig",
        "twin": "robot_io.cameras.twin:TwinCameraConfig",
        "video_file": "robot_io.cameras.video_file:VideoFileCameraConfig",
    },
)


@dataclass
class CameraFormat:
    """Size and rate of a camera's images; None: the camera's own."""

    width: int | None = None
    height: int | None = None
    fps: int | None = None

    def __post_init__(self) -> None:
        check_range(self, "width", "height", low=1, high=16384)
        check_range(self, "fps", low=1, high=1000)


def check_format(name: str, section: Mapping[str, Any]) -> None:
    """Raise UserError unless size and rate of the camera `name` are numbers of their range."""
    formats = {field.name for field in fields(CameraFormat)}
    decode_section(CameraFormat, {key: section[key] for key in section if key in formats}, f"robot.cameras.{name}")


def register_camera(kind: str) -> None:
    """Make a camera type known to LeRobot: of `CAMERAS`, or of an installed lerobot_camera_* package.

    Raises UserError for an unknown type.
    """
    if kind in CAMERAS.names():
        config_class = CAMERAS.load(kind)
        if kind not in CameraConfig.get_known_choices():
            CameraConfig.register_subclass(kind)(config_class)
        return
    import_plugins("lerobot_camera_")
    if kind not in CameraConfig.get_known_choices():
        raise UserError(f"unknown camera type {kind!r}; use one of {', '.join(CAMERAS.names())}")


def import_plugins(prefix: str) -> None:
    """Import the installed packages of LeRobot whose names begin with `prefix`, so that they register themselves."""
    for distribution in importlib.metadata.distributions():
        name = (distribution.metadata["Name"] or "").replace("-", "_")
        if name.startswith(prefix):
            importlib.import_module(name)
