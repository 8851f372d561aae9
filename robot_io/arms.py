"""Arms by name: every robot of LeRobot, and of the lerobot_robot_* packages installed beside it."""

import functools
import importlib
import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import draccus
import lerobot.robots
import lerobot.teleoperators
from lerobot.robots import Robot, RobotConfig, make_robot_from_config
from lerobot.teleoperators import Teleoperator, TeleoperatorConfig
from lerobot.teleoperators.utils import make_teleoperator_from_config
from lerobot.utils.constants import HF_LEROBOT_CALIBRATION, ROBOTS, TELEOPERATORS

from tinyvla.errors import UserError, did_you_mean, nearest_names

from .calibration_file import read_calibration
from .cameras.registry import check_format, import_plugins, register_camera
from .feetech.bus import use_feetech_bus
from .gripper import set_gripper_opening
from .port_lock import lock_when_opened
from .safety import SafetyLimits
from .twin.client import TwinControl
from .twin.settings import CAMERA_TYPE

# Sections of the `robot` configuration that LeRobot does not know.
EXTRA_SECTIONS = ("twin", "safety", "gripper_degrees")
_TWO_ARMS = ("bi_so_follower", "bi_openarm_follower", "bi_rebot_b601_follower")
_TWIN_FPS = 30
_NORMALISED = 100.0  # greatest position of a joint that is not in degrees
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
    if values["type"] in _TWO_ARMS:
        raise UserError(
            f"robot.type={values['type']} has two serial buses, whose servos neither the safety layer's limits nor a "
            "torque cut would reach; drive each arm by itself (robot=so101), or both with LeRobot's own programs"
        )
    if twin is not None:
        values |= {"port": twin.port, "calibration_dir": str(twin.calibration_dir)}
    cameras = values.get("cameras") or {}
    values["cameras"] = {name: _camera_section(name, camera, twin) for name, camera in cameras.items()}
    arm = _build(values, RobotConfig, make_robot_from_config)
    if robot.get("gripper_degrees") is not None:
        set_gripper_opening(arm, robot["gripper_degrees"])
    return arm


def make_leader(robot: Mapping[str, Any]) -> Teleoperator:
    """Build the LeRobot leader that a `robot` section describes, not yet connected. Raises UserError as `make_arm`."""
    values = {name: value for name, value in robot.items() if name not in EXTRA_SECTIONS}
    return _build(values, TeleoperatorConfig, make_teleoperator_from_config)


def is_leader(kind: str) -> bool:
    """Return True if LeRobot has a leader arm, or another device of a person, of that name."""
    return kind in _builtin(TeleoperatorConfig) or kind in TeleoperatorConfig.get_known_choices()


def _build(values: dict[str, Any], base: type, make: Callable[[Any], Any]) -> Any:
    """Build the robot or leader that `values` describe: `type`, and the fields of its configuration class."""
    kind = str(values["type"])
    known = [field.name for field in fields(_config_class(kind, base))]
    if "cameras" not in known and not values.get("cameras"):
        values.pop("cameras", None)
    for name in values:
        if name not in [*known, "type"]:
            raise UserError(f"{kind} has no setting {name!r}; {did_you_mean(name, known)}")
    if "port" in known and not values.get("port"):
        raise UserError(
            "robot.port is not given; add robot.port=/dev/ttyACM0 or alike: robot_setup.py step=find finds it"
        )
    try:
        config = draccus.decode(base, values)
        try:
            device = make(config)
        except Exception:
            _check_calibration_files(config, base)
            raise
    except (draccus.utils.DecodingError, ValueError, TypeError, ImportError) as error:
        raise UserError(f"{kind} cannot be built from these settings: {error}; fix robot.*") from error
    prepare_bus(device)
    return device


def prepare_bus(device: Any) -> None:
    """Protect the serial line of a robot or leader: late answers are dropped, and its port is locked while open."""
    use_feetech_bus(device)
    bus = getattr(device, "bus", None)
    if hasattr(bus, "port_handler"):
        lock_when_opened(bus)


def check_limits(robot: Robot, limits: SafetyLimits) -> None:
    """Raise UserError if the limits are those of another arm, or in degrees for positions from -100 to 100."""
    check_safety_model(robot.name, limits.model)
    joints = zip(limits.joints.values(), limits.grips, strict=True)
    in_degrees = limits.model is not None or any(
        max(-joint.min, joint.max) > _NORMALISED for joint, grips in joints if not grips
    )
    if in_degrees and getattr(getattr(robot, "config", None), "use_degrees", True) is False:
        raise UserError(
            "robot.use_degrees=false gives positions from -100 to 100, but safety.joints are in degrees; set "
            "robot.use_degrees=true"
        )


def _check_calibration_files(config: Any, base: type) -> None:
    """Raise UserError if the calibration that LeRobot loads for a robot or leader is damaged."""
    folder = HF_LEROBOT_CALIBRATION / (ROBOTS if base is RobotConfig else TELEOPERATORS)
    folders = [Path(config.calibration_dir)] if config.calibration_dir else folder.glob("*/")
    for file in [folder / f"{config.id}.json" for folder in folders]:
        if file.exists():
            read_calibration(file)


def check_safety_model(kind: str, model: str | None) -> None:
    """Raise UserError if the geometry of a safety configuration is not that of a kind of arm.

    The joints of a Koch have the names of an SO-101's, so that their names do not show it.
    """
    if model is not None and kind.startswith("koch"):
        raise UserError(f"safety.model={model} is not the geometry of a {kind}; add safety=koch")


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


def image_time(camera: Any) -> float | None:
    """Time of a camera's newest image on time.perf_counter's clock; None if the camera does not report it."""
    return getattr(camera, "latest_timestamp", None)


def servo_bus(robot: Robot) -> Any:
    """Bus of a robot's servos; None if it has none."""
    return getattr(robot, "bus", None)


def feetech_bus(robot: Robot) -> Any:
    """Bus of a robot with Feetech servos; None for other robots."""
    bus = servo_bus(robot)
    return bus if any(kind.__name__ == "FeetechMotorsBus" for kind in type(bus).__mro__) else None


def _config_class(kind: str, base: type) -> type:
    """Configuration class of a robot or leader. base: RobotConfig or TeleoperatorConfig."""
    choices: Any = base  # draccus adds the register to the class
    known: Mapping[str, type] = choices.get_known_choices()
    builtin, what = _builtin(base), "robot" if base is RobotConfig else "teleoperator"
    if kind not in known and kind in builtin:
        try:
            importlib.import_module(builtin[kind])
        except ImportError as error:
            raise UserError(f"LeRobot's {kind} needs a package that is not installed: {error}") from error
    if kind not in choices.get_known_choices():
        import_plugins(f"lerobot_{what}_")
    known = choices.get_known_choices()
    if kind not in known:
        near = " or ".join(nearest_names(kind, [*builtin, *known], cutoff=0.6))
        hint = f"did you mean {near}?" if near else f"install the lerobot_{what}_* package that has it"
        raise UserError(f"LeRobot knows no {what} {kind!r}; {hint}")
    return known[kind]


@functools.cache
def _builtin(base: type) -> dict[str, str]:
    """Package of each robot or leader in LeRobot, by name. Importing all to get the names takes half a minute."""
    package: Any = lerobot.robots if base is RobotConfig else lerobot.teleoperators
    packages = {}
    for file in sorted(Path(package.__path__[0]).glob("*/*.py")):
        for name in re.findall(rf'{base.__name__}\.register_subclass\("(\w+)"\)', file.read_text()):
            packages[name] = f"{package.__name__}.{file.parent.name}"
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
