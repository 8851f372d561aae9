"""Arms by name: every robot of LeRobot, and of the lerobot_robot_* packages installed beside it."""

import difflib
import functools
import importlib
import importlib.metadata
import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import draccus
import lerobot.robots
from lerobot.cameras import CameraConfig
from lerobot.robots import Robot, RobotConfig, make_robot_from_config

from tinyvla.errors import UserError

from .twin.client import TwinControl
from .twin.settings import CAMERA_TYPE

# Sections of the `robot` configuration that LeRobot does not know.
OURS = ("twin", "safety")
_TWIN_FPS = 30
_CAMERAS = {
    "opencv": "lerobot.cameras.opencv",
    "intelrealsense": "lerobot.cameras.realsense",
    "zmq": "lerobot.cameras.zmq",
    "reachy2_camera": "lerobot.cameras.reachy2_camera",
    "twin": "robot_io.cameras",
    "video_file": "robot_io.cameras",
}


def make_arm(robot: Mapping[str, Any], twin: TwinControl | None = None) -> Robot:
    """The LeRobot robot that a `robot` section of the configuration describes, not yet connected.

    Args:
        robot: `type` names it; what is not in OURS are fields of its configuration class.
        twin: one that runs, which then gives port, calibration and pictures.

    Raises UserError for a name, a field or a camera that does not exist, or a missing port.
    """
    given = {name: value for name, value in robot.items() if name not in OURS}
    if twin is not None:
        given |= {"port": twin.port, "calibration_dir": str(twin.calibration_dir)}
    given["cameras"] = {name: _camera(name, camera, twin) for name, camera in (given.get("cameras") or {}).items()}
    config_class = _config_class(str(given["type"]))
    known = [field.name for field in fields(config_class)]
    if "cameras" not in known and not given["cameras"]:
        del given["cameras"]
    for name in given:
        if name not in [*known, "type"]:
            near = " or ".join(difflib.get_close_matches(name, known)) or ", ".join(known)
            raise UserError(f"{given['type']} has no setting {name!r}; did you mean {near}?")
    if "port" in known and not given.get("port"):
        raise UserError("robot.port is not given; add robot.port=/dev/ttyACM0 or alike: lerobot-find-port finds it")
    try:
        return make_robot_from_config(draccus.decode(RobotConfig, given))
    except (draccus.utils.DecodingError, ValueError, TypeError, ImportError) as error:
        raise UserError(f"{given['type']} cannot be made of these settings: {error}; mend robot.*") from error


def _config_class(kind: str) -> type[RobotConfig]:
    known: Callable[[], dict[str, type]] = RobotConfig.get_known_choices
    its_own = _lerobots_robots()
    if kind not in known() and kind in its_own:
        try:
            importlib.import_module(its_own[kind])
        except ImportError as error:
            raise UserError(f"LeRobot's {kind} needs a package that is not installed: {error}") from error
    if kind not in known():
        _import_plugins("lerobot_robot_")
    if kind not in known():
        near = " or ".join(difflib.get_close_matches(kind, [*its_own, *known()]))
        guess = f"did you mean {near}?" if near else "install the lerobot_robot_* package that has it"
        raise UserError(f"LeRobot knows no robot {kind!r}; {guess}")
    return known()[kind]


@functools.cache
def _lerobots_robots() -> dict[str, str]:
    """Name -> package of the robots in LeRobot itself. Importing all to see their names would take half a minute."""
    found = {}
    for file in sorted(Path(lerobot.robots.__path__[0]).glob("*/*.py")):
        for name in re.findall(r'RobotConfig\.register_subclass\("(\w+)"\)', file.read_text()):
            found[name] = f"lerobot.robots.{file.parent.name}"
    return found


def _import_plugins(prefix: str) -> None:
    """Let the installed packages of this kind make themselves known to LeRobot, as its own programs do."""
    for distribution in importlib.metadata.distributions():
        name = (distribution.metadata["Name"] or "").replace("-", "_")
        if name.startswith(prefix):
            importlib.import_module(name)


def _camera(name: str, camera: Mapping[str, Any], twin: TwinControl | None) -> dict[str, Any]:
    """A camera's section, its type made known to LeRobot."""
    kind = camera.get("type")
    if module := _CAMERAS.get(str(kind)):
        importlib.import_module(module)
    else:
        _import_plugins("lerobot_camera_")
    if kind not in CameraConfig.get_known_choices():
        raise UserError(f"robot.cameras.{name}.type is {kind!r}; use one of {', '.join(_CAMERAS)}")
    if kind != "twin":
        return dict(camera)
    if twin is None and not camera.get("folder"):
        raise UserError(f"robot.cameras.{name} belongs to a twin but none runs; use robot=twin, or give its folder")
    # The file is called as the camera is here, whatever it is called in the scene.
    return {**camera, "camera": name} | ({} if twin is None else {"folder": str(twin.folder)})


def needs_twin(robot: Mapping[str, Any]) -> bool:
    """Whether a `robot` section describes a twin that is yet to be started: drawn cameras, and no port."""
    drawn = [camera for camera in (robot.get("cameras") or {}).values() if camera.get("type") == CAMERA_TYPE]
    return bool(drawn) and robot.get("port") is None and "twin" in robot


def with_twin_scene(robot: Mapping[str, Any], scene: str, cameras: Mapping[str, tuple[int, int]]) -> dict[str, Any]:
    """A twin's `robot` section with a scene, by its dotted name, and a policy's cameras, height and width by name."""
    drawn = {
        name: {"type": CAMERA_TYPE, "camera": name, "height": height, "width": width, "fps": _TWIN_FPS}
        for name, (height, width) in cameras.items()
    }
    return {**robot, "twin": {**robot["twin"], "scene": scene}, "cameras": drawn}
