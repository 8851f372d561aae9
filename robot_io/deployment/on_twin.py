"""A run whose arm is a twin that is started with it."""

from collections.abc import Mapping
from typing import Any

from ..twin.settings import CAMERA_TYPE

_FPS = 30


def needs_twin(robot: Mapping[str, Any]) -> bool:
    """Whether a `robot` section describes a twin that is yet to be started: drawn cameras, and no port."""
    drawn = [camera for camera in (robot.get("cameras") or {}).values() if camera.get("type") == CAMERA_TYPE]
    return bool(drawn) and robot.get("port") is None and "twin" in robot


def in_scene(robot: Mapping[str, Any], scene: str, cameras: Mapping[str, tuple[int, int]]) -> dict[str, Any]:
    """A twin's `robot` section with a scene, by its dotted name, and a policy's cameras, height and width by name."""
    drawn = {
        name: {"type": CAMERA_TYPE, "camera": name, "height": height, "width": width, "fps": _FPS}
        for name, (height, width) in cameras.items()
    }
    return {**robot, "twin": {**robot["twin"], "scene": scene}, "cameras": drawn}
