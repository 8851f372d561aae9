"""Progress of the setup of one arm, kept beside its calibration so that it can be resumed."""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lerobot.motors import MotorCalibration

from tinyvla.decoding import decode_section
from tinyvla.errors import UserError
from tinyvla.files import write_whole
from tinyvla.untrusted import read_json_object


@dataclass
class Progress:
    """Finished parts of a setup.

    Args:
        file: that it is kept in.
        named: joints whose servo has its id.
        homing_offsets: of a calibration that is under way, by joint.
        ranges: lowest and highest position in encoder steps of the hand sweep so far, by joint.
        checked: the calibration with which every joint was checked by hand.
    """

    file: Path
    named: list[str] = field(default_factory=list)
    homing_offsets: dict[str, int] = field(default_factory=dict)
    ranges: dict[str, list[int]] = field(default_factory=dict)
    checked: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, device: Any) -> "Progress":
        """Progress of an arm or a leader of LeRobot; nothing is done if there is no readable record of it."""
        calibration: Path = device.calibration_fpath
        file = calibration.with_name(f"{calibration.name.removesuffix('.json')}.setup")
        try:
            return decode_section(cls, {**read_json_object(file), "file": str(file)}, str(file))
        except UserError:
            return cls(file)

    def save(self) -> None:
        content = {name: value for name, value in vars(self).items() if name != "file"}
        write_whole(self.file, json.dumps(content, indent=4))

    def is_checked(self, calibration: dict[str, MotorCalibration]) -> bool:
        """Return True if the joints were checked with this calibration."""
        return bool(calibration) and self.checked == as_json(calibration)


def as_json(calibration: dict[str, MotorCalibration]) -> dict[str, dict[str, int]]:
    """Calibration as its file has it."""
    return {joint: dataclasses.asdict(entry) for joint, entry in calibration.items()}
