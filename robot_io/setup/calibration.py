"""Plausibility of a calibration: ranges against the arm's mechanical stops, joints and ids against the arm's."""

from collections.abc import Mapping

from lerobot.motors import MotorCalibration

from tinyvla.errors import one_line

from ..feetech.registers import RESOLUTION
from .kinds import ArmKind, Travel

STEPS_PER_DEGREE = RESOLUTION / 360  # the Dynamixels of a Koch have the same resolution
_WHOLE_TURN = (0, RESOLUTION - 1)
_MOVED, _STILL = 8.0, 0.5  # degrees that count as moved by hand; share of them by which another joint may turn


def check_calibration(
    calibration: Mapping[str, MotorCalibration], kind: ArmKind, ids: Mapping[str, int] | None = None
) -> list[str]:
    """Faults of a calibration, one line each.

    Args:
        calibration: by joint; its ranges are encoder steps.
        kind: of the arm.
        ids: of the arm's servos by joint; None: not checked.
    """
    problems = [] if ids is None else _check_joints(calibration, ids)
    for joint, entry in calibration.items():
        if ids is not None and joint not in ids:
            continue
        if problem := _check_range(entry, joint, kind) or _check_offset(entry, kind):
            problems.append(f"{joint}: {problem}")
    return problems


def _check_joints(calibration: Mapping[str, MotorCalibration], ids: Mapping[str, int]) -> list[str]:
    """Faults of the names of the joints and of the servos' ids."""
    if strange := [joint for joint in calibration if joint not in ids]:
        names = one_line(", ".join(strange), 100)
        return [f"it is another kind of arm's: this one has no {names}; set robot.id and robot.type to this arm's"]
    problems = [f"{joint}: it is missing; calibrate again" for joint in ids if joint not in calibration]
    joints_of: dict[int, list[str]] = {}
    for joint, entry in calibration.items():
        joints_of.setdefault(entry.id, []).append(joint)
    for number, joints in joints_of.items():
        if len(joints) > 1:
            problems.append(f"{' and '.join(joints)} have the same id {number}; calibrate again")
        elif number != ids[joints[0]]:
            owner = next((joint for joint, other in ids.items() if other == number), None)
            whose = f", that of {owner}" if owner else ""
            problems.append(f"{joints[0]}: its id is {number}{whose}, not {ids[joints[0]]}; calibrate again")
    return problems


def _check_range(entry: MotorCalibration, joint: str, kind: ArmKind) -> str | None:
    low, high = entry.range_min, entry.range_max
    if low >= high:
        return f"range_min {low} is not below range_max {high}; calibrate again"
    if low < 0 or high >= RESOLUTION:
        return f"the range {low} to {high} leaves the encoder's 0 to {RESOLUTION - 1}; calibrate again"
    if (low, high) == _WHOLE_TURN and (kind.full_turn_joints is None or joint in kind.full_turn_joints):
        return None  # LeRobot gives the joint no range
    turned, travel = (high - low) / STEPS_PER_DEGREE, kind.travel.get(joint, Travel())
    if kind.full_turn_joints is not None and joint in kind.full_turn_joints:
        travel = travel._replace(most=360.0)
    if turned > travel.most:
        if turned > Travel().most:
            return (
                f"the range {low} to {high} is the encoder's whole turn, which this joint cannot make: it passed the "
                "encoder's end. Calibrate again, and begin with this joint in the middle of its range"
            )
        return (
            f"a range of {turned:.0f} degrees is impossible, its stops are at most {travel.most:.0f} apart; was the arm"
            " in the middle of its range at the start, and is this cable its own? Calibrate again"
        )
    if turned < travel.least:
        return (
            f"it was moved through only {turned:.0f} degrees, less than the {travel.least:.0f} of its kind; calibrate "
            "again, to both stops"
        )
    return None


def _check_offset(entry: MotorCalibration, kind: ArmKind) -> str | None:
    most = kind.greatest_offset
    if most is not None and abs(entry.homing_offset) > most:
        return f"no servo can hold a homing_offset of {entry.homing_offset}, only -{most} to {most}; calibrate again"
    return None


def moved_joint(before: Mapping[str, float], now: Mapping[str, float]) -> str | None:
    """Joint that was moved by hand between two readings in encoder steps; None while that is not clear."""
    degrees = {joint: _degrees(before[joint], now[joint]) for joint in before}
    first, *rest = sorted(degrees, key=lambda joint: degrees[joint], reverse=True)
    if degrees[first] < _MOVED or (rest and degrees[rest[0]] > _STILL * degrees[first]):
        return None
    return first


def turned(before: Mapping[str, float], now: Mapping[str, float]) -> float:
    """Greatest turn of a joint in degrees between two readings in encoder steps."""
    return max(_degrees(before[joint], now[joint]) for joint in before)


def _degrees(before: float, now: float) -> float:
    half = RESOLUTION // 2  # a joint that turns all the way passes the encoder's end
    return abs((now - before + half) % RESOLUTION - half) / STEPS_PER_DEGREE
