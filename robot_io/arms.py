"""Arms by name: every robot of LeRobot, and of the lerobot_robot_* packages installed beside it."""

import functools
import importlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import draccus
import lerobot.robots
from lerobot.robots import Robot, RobotConfig, make_robot_from_config

from tinyvla.errors import UserError, did_you_mean, nearest_names

from .cameras.registry import check_format, import_plugins, register_camera
from .twin.client import TwinControl
from .twin.settings import CAMERA_TYPE

# Sections of the `robot` configuration that LeRobot does not know.
EXTRA_SECTIONS = ("twin", "safety")
_TWIN_FPS = 30
_WEBCAM = (480, 640)  # height and width that every webcam has
_WEBCAM_FPS = 30


def make_arm(robot: Mapping[str, Any], twin: TwinControl | None = None) -> Robot:
    """Build the LeRobot robot that a `robot` section of the configuration describes, not yet connected.

    Args:
        robot: `type` names it; everything outside EXTRA_SECTIONS is a field of its configuration class.
        twin: running twin, which then gives port, calibration and images.

    Raises UserError for a name, a field or a camera that does not exist, or a missing port.
    """
    values = {name: value for name, value in robot.items() if name not in EXTRA_SECTIONS}
    if twin is not None:
        values |= {"port": twin.port, "calibration_dir": str(twin.calibration_dir)}
    cameras = values.get("cameras") or {}
    values["cameras"] = {name: _camera_section(name, camera, twin) for name, camera in cameras.items()}
    known = [field.name for field in fields(_config_class(str(values["type"])))]
    if "cameras" not in known and not values["cameras"]:
        del values["cameras"]
    for name in values:
        if name not in [*known, "type"]:
            raise UserError(f"{values['type']} has no setting {name!r}; {did_you_mean(name, known)}")
    if "port" in known and not values.get("port"):
        raise UserError("robot.port is not given; add robot.port=/dev/ttyACM0 or alike: lerobot-find-port finds it")
    try:
        return make_robot_from_config(draccus.decode(RobotConfig, values))
    except (draccus.utils.DecodingError, ValueError, TypeError, ImportError) as error:
        raise UserError(f"{values['type']} cannot be built from these settings: {error}; fix robot.*") from error


def needs_twin(robot: Mapping[str, Any]) -> bool:
    """True if a `robot` section describes a twin that is yet to be started: twin cameras, and no port."""
    cameras = (robot.get("cameras") or {}).values()
    return (
        any(isinstance(camera, Mapping) and camera.get("type") == CAMERA_TYPE for camera in cameras)
        and robot.get("port") is None
        and "twin" in robot
    )


def with_twin_cameras(robot: Mapping[str, Any], cameras: Mapping[str, tuple[int, int]]) -> dict[str, Any]:
    """A twin's `robot` section with a policy's cameras: height and width by name."""
    sections = {
        name: {"type": CAMERA_TYPE, "camera": name, "height": height, "width": width, "fps": _TWIN_FPS}
        for name, (height, width) in cameras.items()
    }
    return {**robot, "cameras": sections}


# LeRobot's base class declares neither cameras nor a bus, so that the following ask for them in one place.


def robot_cameras(robot: Robot) -> Mapping[str, Any]:
    """Cameras of a robot by name; empty if it has none."""
    return getattr(robot, "cameras", {})


def camera_sizes(robot: Robot, names: Iterable[str]) -> dict[str, tuple[int, int]]:
    """Height and width of the images of a robot's cameras. Raises UserError for a camera whose size is not known."""
    sizes = {name: robot.observation_features[name][:2] for name in names}
    for name, size in sizes.items():
        if None in size:
            raise UserError(
                f"the size of the camera {name} is not known, and its images are recorded; set "
                f"robot.cameras.{name}.width and height, or record=false"
            )
    return sizes


def image_time(camera: Any) -> float | None:
    """Time of a camera's newest image on time.perf_counter's clock; None if the camera does not report it."""
    return getattr(camera, "latest_timestamp", None)


def servo_bus(robot: Robot) -> Any:
    """Bus of a robot's servos; None if it has none."""
    return getattr(robot, "bus", None)


def feetech_bus(robot: Robot) -> Any:
    """Bus of a robot with Feetech servos; None for other robots."""
    bus = servo_bus(robot)
    return bus if type(bus).__name__ == "FeetechMotorsBus" else None


def _config_class(kind: str) -> type[RobotConfig]:
    known: Mapping[str, type[RobotConfig]] = RobotConfig.get_known_choices()
    builtin = _builtin_robots()
    if kind not in known and kind in builtin:
        try:
            importlib.import_module(builtin[kind])
        except ImportError as error:
            raise UserError(f"LeRobot's {kind} needs a package that is not installed: {error}") from error
    if kind not in RobotConfig.get_known_choices():
        import_plugins("lerobot_robot_")
    known = RobotConfig.get_known_choices()
    if kind not in known:
        near = " or ".join(nearest_names(kind, [*builtin, *known], cutoff=0.6))
        hint = f"did you mean {near}?" if near else "install the lerobot_robot_* package that has it"
        raise UserError(f"LeRobot knows no robot {kind!r}; {hint}")
    return known[kind]


@functools.cache
def _builtin_robots() -> dict[str, str]:
    """Package of each robot in LeRobot itself, by name. Importing all to get the names would take half a minute."""
    packages = {}
    for file in sorted(Path(lerobot.robots.__path__[0]).glob("*/*.py")):
        for name in re.findall(r'RobotConfig\.register_subclass\("(\w+)"\)', file.read_text()):
            packages[name] = f"lerobot.robots.{file.parent.name}"
    return packages


def _camera_section(name: str, camera: Mapping[str, Any], twin: TwinControl | None) -> dict[str, Any]:
    """Section of a camera, whose type is registered with LeRobot afterwards."""
    if not isinstance(camera, Mapping):
        raise UserError(f"robot.cameras.{name}={camera} is not a section; give its type, as in {{type: opencv, ...}}")
    check_format(name, camera)
    kind = camera.get("type")
    try:
        register_camera(str(kind))
    except UserError as error:
        raise UserError(f"robot.cameras.{name}.type: {error}") from error
    if kind == "opencv":
        is_turned = str(camera.get("rotation")) in ("90", "-90")
        height, width = reversed(_WEBCAM) if is_turned else _WEBCAM
        defaults = {"height": height, "width": width, "fps": _WEBCAM_FPS}
        return {**camera, **{name: camera.get(name) or default for name, default in defaults.items()}}
    if kind != CAMERA_TYPE:
        return dict(camera)
    if twin is None and not camera.get("folder"):
        raise UserError(f"robot.cameras.{name} belongs to a twin but none runs; use robot=twin, or give its folder")
    # The file has the camera's name in this section, whatever the scene calls it.
    return {**camera, "camera": name} | ({} if twin is None else {"folder": str(twin.folder)})
