"""Calibration of an arm by hand, as LeRobot does it and stores it, which survives lost packets and interruptions."""

import json
import time
from collections import deque
from collections.abc import Mapping
from functools import partial
from typing import Any

from lerobot.motors import MotorCalibration

from tinyvla.errors import UserError
from tinyvla.files import write_whole

from ..feetech.registers import RESOLUTION
from .calibration import STEPS_PER_DEGREE, check_calibration
from .kinds import ArmKind, Travel
from .line import read_positions, repeat, reset, steady_positions
from .person import Person
from .progress import Progress, as_json

_POLL_S = 0.02  # seconds between two readings of the sweep
_SAVE_S = 1.0  # seconds between two saves of its ranges
_SILENCE_S = 1.0  # seconds without an answer after which the person is asked to look at the cables


class SweptRanges:
    """Lowest and highest position of joints that are moved by hand, in encoder steps.

    A position counts as the middle one of three readings, so that one wrong reading changes nothing.

    Args:
        ranges: of an earlier part of the sweep, by joint.
    """

    def __init__(self, ranges: Mapping[str, list[int]]):
        self.ranges = {joint: list(ends) for joint, ends in ranges.items()}
        self._readings: deque[dict[str, int]] = deque(maxlen=3)
        self._positions: dict[str, int] = {}

    def add(self, positions: dict[str, int]) -> None:
        """Add a reading. Raises UserError if a joint has passed the end of its encoder."""
        self._readings.append(positions)
        if len(self._readings) < 3:
            return
        for joint in positions:
            _, position, _ = sorted(reading[joint] for reading in self._readings)
            before = self._positions.get(joint, position)
            if abs(position - before) > RESOLUTION // 2 or not 0 <= position < RESOLUTION:
                raise UserError(
                    f"the {joint} passed the end of its encoder, since it was not in the middle of its range at the "
                    "start; begin the calibration again, with this joint in the middle"
                )
            self._positions[joint] = position
            low, high = self.ranges.get(joint, (position, position))
            self.ranges[joint] = [min(low, position), max(high, position)]

    def degrees(self) -> str:
        """Degrees through which each joint was moved, on one line."""
        return "  ".join(f"{joint} {(high - low) / STEPS_PER_DEGREE:.0f}" for joint, (low, high) in self.ranges.items())


def calibrate(device: Any, bus: Any, kind: ArmKind, progress: Progress, person: Person, patience: float) -> None:
    """Calibrate an arm or a leader, and store the result in its servos and where LeRobot looks for it.

    What is finished is kept in `progress`: an interrupted sweep goes on where it was.

    Args:
        device: of LeRobot.
        bus: of its servos, open.
        kind: of the arm, with an `operating_mode`.
        progress: of its setup.
        person: who moves the arm.
        patience: seconds without an answer of the servos after which the sweep ends.

    Raises UserError if a joint passes the end of its encoder.
    """
    repeat(lambda: bus.disable_torque(num_retry=2), bus)
    if progress.homing_offsets and _offsets(bus) == progress.homing_offsets:
        person.say("An interrupted calibration goes on; what was moved so far is kept.")
    else:
        progress.homing_offsets, progress.ranges = {}, {}
        progress.save()
        progress.homing_offsets = _home(device, bus, kind, person)
        progress.save()
    try:
        _sweep(bus, kind, progress, person, patience)
        calibration = _calibration(bus, kind, progress)
        if problems := check_calibration(calibration, kind):
            raise UserError(f"this calibration cannot be right: {'; '.join(problems)}")
    except UserError:  # moving on does not help
        progress.homing_offsets, progress.ranges = {}, {}
        progress.save()
        raise
    repeat(lambda: bus.write_calibration(calibration), bus)
    device.calibration = calibration
    write_whole(device.calibration_fpath, json.dumps(as_json(calibration), indent=4))
    progress.homing_offsets, progress.ranges = {}, {}
    progress.save()
    person.say(f"Calibration saved to {device.calibration_fpath}")


def _home(device: Any, bus: Any, kind: ArmKind, person: Person) -> dict[str, int]:
    """Make the present pose the middle of every encoder; returns the offsets of the servos."""
    for joint in bus.motors:
        repeat(partial(bus.write, "Operating_Mode", joint, kind.operating_mode, num_retry=2), bus)
        if joint in kind.inverted_joints:
            repeat(partial(bus.write, "Drive_Mode", joint, 1, num_retry=2), bus)
    repeat(bus.configure_motors, bus)  # readings from 0 to 4095
    person.ask(f"Put {device} in the middle of its range of motion, every joint, and press ENTER ")
    repeat(bus.reset_calibration, bus)
    offsets = bus._get_half_turn_homings(steady_positions(bus))
    if (most := kind.greatest_offset) is not None:
        offsets = {joint: max(-most, min(most, offset)) for joint, offset in offsets.items()}
    for joint, offset in offsets.items():
        repeat(partial(bus.write, "Homing_Offset", joint, offset, num_retry=2), bus)
    return {joint: int(offset) for joint, offset in offsets.items()}


def _offsets(bus: Any) -> dict[str, int]:
    read = partial(bus.read, "Homing_Offset", normalize=False, num_retry=2)
    return {joint: int(repeat(partial(read, joint), bus)) for joint in bus.motors}


def _sweep(bus: Any, kind: ArmKind, progress: Progress, person: Person, patience: float) -> None:
    """Record the ranges of the joints that the person moves, until Enter is pressed and they are plausible."""
    full_turn = kind.full_turn_joints or ()
    joints = [joint for joint in bus.motors if joint not in full_turn]
    person.say(
        f"Move each joint except {' and '.join(full_turn)} to both of its stops: {', '.join(joints)}. Then press "
        "ENTER. Degrees so far:"
    )
    swept = SweptRanges(progress.ranges)
    saved = time.monotonic()
    try:
        while True:
            swept.add(_answered_positions(bus, joints, person, patience))
            person.show(swept.degrees())
            if person.enter_pressed():
                if not (unfinished := _unfinished(swept.ranges, joints, kind)):
                    return
                person.say(f"Not yet: {', '.join(unfinished)}. Move them to both stops, then press ENTER.")
            if time.monotonic() - saved > _SAVE_S:
                saved = time.monotonic()
                _save_ranges(progress, swept)
            time.sleep(_POLL_S)
    finally:
        _save_ranges(progress, swept)


def _save_ranges(progress: Progress, swept: SweptRanges) -> None:
    if progress.ranges != swept.ranges:
        progress.ranges = dict(swept.ranges)
        progress.save()


def _answered_positions(bus: Any, joints: list[str], person: Person, patience: float) -> dict[str, int]:
    """Positions, as soon as all servos answer. Raises ConnectionError if they do not for `patience` seconds."""
    start, complained = time.monotonic(), False
    while True:
        try:
            return read_positions(bus, joints)
        except (ConnectionError, RuntimeError):
            reset(bus)
            silence = time.monotonic() - start
            if silence > patience:
                raise
            if silence > _SILENCE_S and not complained:
                person.say("A servo does not answer; check its cable. What was moved so far is kept.")
                complained = True


def _unfinished(ranges: Mapping[str, list[int]], joints: list[str], kind: ArmKind) -> list[str]:
    """Joints that were not moved far enough, each with its degrees."""
    unfinished = []
    for joint in joints:
        low, high = ranges.get(joint, (0, 0))
        degrees, least = (high - low) / STEPS_PER_DEGREE, kind.travel.get(joint, Travel()).least
        if degrees < least:
            unfinished.append(f"{joint} was moved through {degrees:.0f} degrees of at least {least:.0f}")
    return unfinished


def _calibration(bus: Any, kind: ArmKind, progress: Progress) -> dict[str, MotorCalibration]:
    """Calibration of LeRobot's form from the offsets and the ranges of the sweep."""
    whole_turn = [0, RESOLUTION - 1]
    calibration = {}
    for joint, motor in bus.motors.items():
        low, high = whole_turn if joint in (kind.full_turn_joints or ()) else progress.ranges[joint]
        calibration[joint] = MotorCalibration(
            id=motor.id,
            drive_mode=int(joint in kind.inverted_joints),
            homing_offset=progress.homing_offsets[joint],
            range_min=low,
            range_max=high,
        )
    return calibration
