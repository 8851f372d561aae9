"""Calibration files of LeRobot, read as data."""

from pathlib import Path

from lerobot.motors import MotorCalibration

from tinyvla.errors import UserError, one_line
from tinyvla.untrusted import read_json_object

_FIELDS = ("id", "drive_mode", "homing_offset", "range_min", "range_max")
_FIX = "delete that file, and calibrate again with robot_setup.py step=calibrate"


def read_calibration(file: Path) -> dict[str, MotorCalibration]:
    """Calibration in a file of LeRobot's format, by joint; what its numbers mean is not checked.

    Raises UserError for a file that is missing, damaged, or does not hold whole numbers where LeRobot has them.
    """
    if not file.exists():
        raise UserError(f"there is no calibration {file}; calibrate with robot_setup.py step=calibrate")
    calibration = {}
    for joint, entry in read_json_object(file).items():
        name = one_line(joint, 40)
        if not isinstance(entry, dict) or set(entry) != set(_FIELDS):
            raise UserError(f"{file}: {name} does not have {', '.join(_FIELDS)}; {_FIX}")
        for key in _FIELDS:
            if type(entry[key]) is not int:
                value = one_line(repr(entry[key]), 40)
                raise UserError(f"{file}: {key} of {name} is {value}, not a whole number; {_FIX}")
        calibration[joint] = MotorCalibration(**entry)
    return calibration
