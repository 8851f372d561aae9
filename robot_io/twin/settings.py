"""Settings of a twin, from the `robot` section of the configuration."""

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from pydoc import locate
from typing import Any, Literal

from tinyvla.arms.simulated import ArmScene, SceneFactory
from tinyvla.arms.so101 import SO101
from tinyvla.decoding import decode_section
from tinyvla.errors import UserError

from ..feetech.registers import REGISTERS, RESOLUTION, PhaseBit
from .bare_arm import BareArm
from .camera_rendering import CameraView
from .physics import STEPS_PER_RADIAN, Drivetrain
from .servo import SERVO_MODELS, Firmware, Servo, ServoModel

CAMERA_TYPE = "twin"  # of those cameras in robot.cameras that the twin draws
_MIDDLE = RESOLUTION // 2 - 1  # step in the middle of a joint's range, after LeRobot's calibration
_PHASES = (REGISTERS["Phase"].factory,) * len(SO101.joints)
_HIGHEST_SUPPLY = 25.4  # V, the greatest limit that a servo can have
_RENAMED_SCENES = {"robot_io.twin.scene.BareArm": "robot_io.twin.bare_arm.BareArm"}  # names before version 0.2


@dataclass(frozen=True)
class TwinSection:
    """Section `robot.twin` of the configuration.

    Args:
        folder: of port, control socket and images; None: a temporary one.
        ids: of the servos from the shoulder to the gripper; two may be equal.
        mounting: steps of 1/4096 turn by which each horn is turned against its servo.
        calibrated: False for servos that are fresh from the factory.
        scene: class of the scene (`ArmScene`), as module.Class.
        scene_options: arguments of that class.
        drivetrain: of all servos; a stall torque of 0 stands for that of `servo`.
        servo: version of the servos, C001 (7.4 V) or C018 (12 V).
        supply: V; None: as the version needs.
        phase: register Phase of each servo (`PhaseBit`).
        overload_latched, goal_follows, goal_enables_torque: see `Firmware`.
    """

    folder: str | None = None
    ids: tuple[int, ...] = SO101.servo_ids
    mounting: tuple[int, ...] = (0,) * len(SO101.joints)
    calibrated: bool = True
    scene: str = "robot_io.twin.bare_arm.BareArm"
    scene_options: dict[str, Any] = field(default_factory=dict)
    drivetrain: Drivetrain = field(default_factory=Drivetrain)
    servo: Literal["C001", "C018"] = "C001"
    supply: float | None = None
    phase: tuple[int, ...] = _PHASES
    overload_latched: bool = Firmware.overload_latched
    goal_follows: bool = Firmware.goal_follows
    goal_enables_torque: bool = Firmware.goal_enables_torque


@dataclass(frozen=True)
class TwinSettings:
    """Settings that a twin is made from. They are pickled for the twin's processes.

    Args:
        robot_id: under which LeRobot looks for the calibration.
        ids, mounting, calibrated, drivetrain, phase: see `TwinSection`.
        servo: version of the servos, with the supply that they have.
        firmware: of the servos.
        scene: makes the scene; called once more in the process that draws the cameras.
        cameras: view by the camera's name in `robot.cameras`.
        seed: of the scene and of faults.
    """

    robot_id: str = "twin"
    ids: Sequence[int] = SO101.servo_ids
    mounting: Sequence[int] = (0,) * len(SO101.joints)
    calibrated: bool = True
    drivetrain: Drivetrain = field(default_factory=Drivetrain)
    servo: ServoModel = SERVO_MODELS["C001"]
    phase: Sequence[int] = _PHASES
    firmware: Firmware = field(default_factory=Firmware)
    scene: SceneFactory = BareArm
    cameras: Mapping[str, CameraView] = field(default_factory=dict)
    seed: int = 0

    @classmethod
    def from_config(
        cls, robot: Mapping[str, Any], seed: int = 0, scene: Callable[..., ArmScene] | None = None
    ) -> "TwinSettings":
        """Settings of a `robot` section that has a `twin` part.

        scene: takes the place of the class that `robot.twin.scene` names; `robot.twin.scene_options` are its arguments.

        Raises UserError for settings that do not fit an SO-101, or a scene that does not exist.
        """
        section = decode_section(TwinSection, robot["twin"], "robot.twin")
        for name, numbers in (("ids", section.ids), ("mounting", section.mounting), ("phase", section.phase)):
            if len(numbers) != len(SO101.joints):
                raise UserError(
                    f"robot.twin.{name} has {len(numbers)} numbers; an SO-101 has {len(SO101.joints)} servos"
                )
        if wrong := [number for number in section.ids if not 0 <= number <= 253]:
            raise UserError(f"robot.twin.ids has {wrong[0]}; servos have ids from 0 to 253")
        if wrong := [number for number in section.phase if not 0 <= number <= 254]:
            raise UserError(f"robot.twin.phase has {wrong[0]}; the register Phase takes 0 to 254")
        if section.supply is not None and not 0 < section.supply <= _HIGHEST_SUPPLY:
            raise UserError(f"robot.twin.supply={section.supply:g} does not fit; it is more than 0 and at most 25.4 V")
        servo = SERVO_MODELS[section.servo]
        cameras = {
            name: _camera_view(name, camera)
            for name, camera in (robot["cameras"] or {}).items()
            if isinstance(camera, Mapping) and camera.get("type") == CAMERA_TYPE
        }
        return cls(
            robot_id=str(robot["id"]),
            ids=section.ids,
            mounting=section.mounting,
            calibrated=section.calibrated,
            drivetrain=replace(section.drivetrain, stall=section.drivetrain.stall or servo.stall),
            servo=replace(servo, supply=section.supply or servo.supply),
            phase=section.phase,
            firmware=Firmware(**{entry.name: getattr(section, entry.name) for entry in fields(Firmware)}),
            scene=functools.partial(scene or load_scene(section.scene), **section.scene_options),
            cameras=cameras,
            seed=seed,
        )

    def make_servos(self) -> list[Servo]:
        """Create one servo per joint, fresh from the factory except for id and Phase."""
        servos = [Servo(number, self.servo, self.firmware) for number in self.ids]
        for servo, phase in zip(servos, self.phase, strict=True):
            servo.set("Phase", phase)
        return servos

    def calibration(self, limits: Sequence[Sequence[float]]) -> dict[str, dict[str, int]]:
        """Result of LeRobot's calibration for joints with these limits, (6, 2) in radians."""
        calibration = {}
        for joint, number, mounting, phase, ends in zip(
            SO101.joints, self.ids, self.mounting, self.phase, limits, strict=True
        ):
            full_turn = joint in SO101.full_turn_joints
            sense = -1 if phase & PhaseBit.SENSOR_REVERSED else 1
            low, high = sorted(sense * end for end in ends)
            calibration[joint] = {
                "id": int(number),
                "drive_mode": 0,
                "homing_offset": sense * int(mounting) + RESOLUTION // 2 - _MIDDLE,
                "range_min": 0 if full_turn else round(_MIDDLE + low * STEPS_PER_RADIAN),
                "range_max": RESOLUTION - 1 if full_turn else round(_MIDDLE + high * STEPS_PER_RADIAN),
            }
        return calibration


def _camera_view(name: str, camera: Mapping[str, Any]) -> CameraView:
    section = {"camera": name, **{key: value for key, value in camera.items() if key not in ("type", "folder")}}
    return decode_section(CameraView, section, f"robot.cameras.{name}")


def load_scene(name: str) -> Callable[..., ArmScene]:
    """Class of a scene by its dotted name. Raises UserError if it does not exist."""
    scene: Any = locate(_RENAMED_SCENES.get(name, name))
    if scene is None:
        raise UserError(f"robot.twin.scene={name} does not exist; name a class, as module.Class")
    return scene


def write_calibration(servos: Sequence[Servo], calibration: Mapping[str, Mapping[str, int]], file: Path) -> None:
    """Write a calibration into the EEPROM of the servos and into a file of LeRobot's format."""
    for servo, joint in zip(servos, SO101.joints, strict=True):
        servo.set("Homing_Offset", calibration[joint]["homing_offset"])
        servo.set("Min_Position_Limit", calibration[joint]["range_min"])
        servo.set("Max_Position_Limit", calibration[joint]["range_max"])
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(calibration, indent=4))
