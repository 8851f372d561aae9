"""What a twin is made of, from the `robot` section of the configuration."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tinyvla.errors import UserError

from ..feetech.registers import RESOLUTION
from .bare_arm import JOINTS
from .camera_rendering import CameraView
from .physics import STEPS_A_RADIAN, Drivetrain
from .servo import Servo

CAMERA_TYPE = "twin"  # of those cameras in robot.cameras that the twin draws
_FULL_TURN = "wrist_roll"  # LeRobot gives it no range
_MIDDLE = RESOLUTION // 2 - 1  # what LeRobot's calibration makes of the middle of a joint's range


@dataclass(frozen=True)
class TwinSettings:
    """ids: of the servos, in the order of JOINTS; several may be equal. mounting: steps that each horn is turned
    against its servo. calibrated: whether the servos hold a calibration that fits. scene: dotted name of a callable
    that makes the `Scene`, given scene_options. robot_id: under which LeRobot looks for the calibration."""

    robot_id: str = "twin"
    ids: Sequence[int] = (1, 2, 3, 4, 5, 6)
    mounting: Sequence[int] = (0, 0, 0, 0, 0, 0)
    calibrated: bool = True
    drivetrain: Drivetrain = field(default_factory=Drivetrain)
    scene: str = "robot_io.twin.bare_arm.BareArm"
    scene_options: Mapping[str, Any] = field(default_factory=dict)
    cameras: Mapping[str, CameraView] = field(default_factory=dict)
    seed: int = 0

    @classmethod
    def from_config(cls, robot: Mapping[str, Any], seed: int = 0) -> "TwinSettings":
        """From a `robot` section with its `twin` part. Raises UserError for what no arm can be."""
        twin = {name: value for name, value in robot["twin"].items() if name != "folder"}
        for name in ("ids", "mounting"):
            if len(twin[name]) != len(JOINTS):
                raise UserError(f"robot.twin.{name} has {len(twin[name])} numbers; an SO-101 has {len(JOINTS)} servos")
        if bad := [number for number in twin["ids"] if not 0 <= number <= 253]:
            raise UserError(f"robot.twin.ids has {bad[0]}; servos have ids from 0 to 253")
        cameras = {
            name: CameraView(camera.get("camera", name), camera["width"], camera["height"], camera["fps"])
            for name, camera in (robot["cameras"] or {}).items()
            if camera["type"] == CAMERA_TYPE
        }
        drivetrain = Drivetrain(**twin.pop("drivetrain"))
        return cls(robot_id=str(robot["id"]), cameras=cameras, drivetrain=drivetrain, seed=seed, **twin)

    def make_servos(self) -> list[Servo]:
        """One a joint, as from the factory but for the ids."""
        return [Servo(number) for number in self.ids]

    def calibration(self, limits: Sequence[Sequence[float]]) -> dict[str, dict[str, int]]:
        """What LeRobot's calibration would find for joints with these limits, (6, 2) in radians."""
        found = {}
        for joint, number, mounting, (low, high) in zip(JOINTS, self.ids, self.mounting, limits, strict=True):
            full = joint == _FULL_TURN
            found[joint] = {
                "id": int(number),
                "drive_mode": 0,
                "homing_offset": int(mounting) + RESOLUTION // 2 - _MIDDLE,
                "range_min": 0 if full else round(_MIDDLE + low * STEPS_A_RADIAN),
                "range_max": RESOLUTION - 1 if full else round(_MIDDLE + high * STEPS_A_RADIAN),
            }
        return found


def calibrate(servos: Sequence[Servo], calibration: Mapping[str, Mapping[str, int]], file: Path) -> None:
    """Put a calibration into the servos' memory for good, and into a file of LeRobot's format."""
    for servo, joint in zip(servos, JOINTS, strict=True):
        servo.set("Homing_Offset", calibration[joint]["homing_offset"])
        servo.set("Min_Position_Limit", calibration[joint]["range_min"])
        servo.set("Max_Position_Limit", calibration[joint]["range_max"])
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(calibration, indent=4))
