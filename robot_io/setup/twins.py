"""Running twins: simulate_arm.py leaves the settings of its twin in the twin's folder, where `step=find` looks."""

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tinyvla.decoding import decode_section
from tinyvla.errors import UserError
from tinyvla.files import write_whole
from tinyvla.untrusted import check_values, read_json_object

from ..twin.client import TwinControl
from ..twin.settings import CAMERA_TYPE

_RECORD = "robot.json"


@dataclass(frozen=True)
class RunningTwin:
    """Twin of simulate_arm.py.

    Args:
        folder: of its port, socket and calibration.
        type: LeRobot's name of the follower or leader.
        id: under which its calibration is stored.
        cameras: sections of robot.cameras by name.
    """

    folder: Path
    type: str
    id: str
    cameras: dict[str, Any] = field(default_factory=dict)

    @property
    def is_leader(self) -> bool:
        return self.type.endswith("_leader")

    @property
    def settings(self) -> str:
        """Settings with which every program of this repository uses it in place of an arm."""
        return (
            f"robot={self.type.split('_')[0]}{'_leader' if self.is_leader else ''} robot.port={self.folder}/port "
            f"robot.calibration_dir={self.folder}/calibration robot.id={self.id}"
        )

    @property
    def lerobot_settings(self) -> str:
        """Settings for LeRobot's programs."""
        name = "teleop" if self.is_leader else "robot"
        return (
            f"--{name}.type={self.type} --{name}.port={self.folder}/port "
            f"--{name}.calibration_dir={self.folder}/calibration --{name}.id={self.id}"
        )


def record_twin(robot: Mapping[str, Any], folder: Path) -> RunningTwin:
    """Leave the settings of a `robot` section in the folder of its twin."""
    cameras = {
        name: {**camera, "folder": str(folder)}
        for name, camera in (robot["cameras"] or {}).items()
        if isinstance(camera, Mapping) and camera.get("type") == CAMERA_TYPE
    }
    twin = RunningTwin(folder, str(robot["type"]), str(robot["id"]), cameras)
    write_whole(folder / _RECORD, json.dumps({"type": twin.type, "id": twin.id, "cameras": cameras}))
    return twin


def running_twins(place: Path | None = None) -> list[RunningTwin]:
    """Twins of this user that run in temporary folders, which is where simulate_arm.py puts them by default.

    place: the folder of the temporary folders, by default the system's.
    """
    twins = []
    for file in sorted((place or Path(tempfile.gettempdir())).glob(f"twin-*/{_RECORD}")):
        try:
            if file.parent.stat().st_uid != os.getuid():
                continue
            record = read_json_object(file)
            check_values(record, str(file))
            twin = decode_section(RunningTwin, {**record, "folder": str(file.parent)}, str(file))
            TwinControl(twin.folder).close()
        except (UserError, OSError):  # a twin that was killed, or that ends right now
            continue
        twins.append(twin)
    return twins
