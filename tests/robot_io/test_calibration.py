"""Calibrations of real followers and leaders are accepted, damaged ones are refused with the right reason."""

import json
import re

import pytest
from lerobot.motors import MotorCalibration

from robot_io.calibration_file import read_calibration
from robot_io.setup.calibration import check_calibration
from robot_io.setup.kinds import ArmKind, arm_kind
from tinyvla.arms.so101 import SO101
from tinyvla.errors import UserError

IDS = dict(zip(SO101.joints, SO101.servo_ids, strict=True))
FOLLOWER, LEADER, KOCH = arm_kind("so_follower"), arm_kind("so_leader"), arm_kind("koch_follower")
TURN = (0, 4095)
# Homing offsets and ranges, from the shoulder to the gripper, of SO-101 arms in daily use, as public projects hold
# them. An offset of 0 was not published.
FOLLOWERS = [
    (
        (-1365, 746, 3477),
        (-1200, 822, 3211),
        (-986, 901, 3110),
        (-1696, 849, 3216),
        (-375, 135, 3984),
        (1871, 1975, 3565),
    ),
    ((-101, 758, 3447), (-1980, 1360, 3746), (-645, 996, 3200), (773, 577, 2913), (-141, *TURN), (-472, 1656, 3100)),
    ((-33, 743, 3458), (-36, 915, 3273), (667, 154, 2334), (-69, 805, 3142), (81, 66, 3894), (63, 1456, 2901)),
    (
        (-241, 1279, 2892),
        (296, 890, 3201),
        (-551, 810, 3017),
        (-536, 922, 3237),
        (-1524, 163, 4032),
        (-1686, 2014, 3528),
    ),
    ((-1686, 1070, 3135), (-1007, 793, 3238), (1635, 873, 3084), (1716, 1052, 2977), (1627, *TURN), (1523, 2047, 3496)),
    ((445, 859, 2931), (254, 865, 3234), (-287, 900, 3116), (-375, 782, 3092), (-1443, *TURN), (-1796, 2029, 3517)),
    ((-273, 1347, 2868), (990, 946, 3302), (73, 677, 2910), (-487, 1014, 3320), (-740, 94, 3982), (-480, 2012, 3549)),
    ((-1981, 709, 3229), (-1635, 838, 3210), (1105, 845, 3085), (1690, 798, 3183), (1819, *TURN), (1382, 2033, 3525)),
    ((-2027, 943, 3337), (-1001, 775, 3266), (1258, 890, 3081), (-1973, 652, 3222), (-1883, *TURN), (1107, 1925, 3343)),
    ((0, 884, 3320), (0, 756, 3353), (0, 868, 3061), (0, 805, 3153), (0, *TURN), (0, 1899, 3363)),
    ((0, 1022, 3091), (0, 849, 3194), (0, 700, 3095), (0, 999, 3264), (0, 300, 4095), (0, 1458, 2963)),
]
LEADERS = [
    (
        (-1196, 725, 3449),
        (1989, 862, 3253),
        (-1190, 842, 3047),
        (1761, 909, 3254),
        (-678, 139, 3971),
        (1181, 2032, 3288),
    ),
    ((1084, 694, 3349), (-1065, 804, 3220), (16, 795, 3080), (133, 679, 3084), (1925, *TURN), (-1891, 1447, 2808)),
    ((0, 754, 3230), (0, 871, 3271), (0, 862, 3054), (0, 829, 3169), (0, *TURN), (0, 1903, 3135)),
    ((-1276, 974, 3369), (-1609, 820, 3231), (1951, 910, 3122), (-1413, 920, 3228), (-1110, *TURN), (-528, 1532, 2772)),
]
# Ranges of the gripper alone, of followers in daily use.
GRIPPERS = [(1975, 3565), (1477, 2953), (1973, 3449), (1456, 2901), (2014, 3528), (2047, 3496), (1656, 3100)]


def entry(low, high, number=1, offset=0):
    return MotorCalibration(id=number, drive_mode=0, homing_offset=offset, range_min=low, range_max=high)


def calibration(numbers=FOLLOWERS[5], **changes):
    joints = {
        joint: entry(low, high, IDS[joint], offset) for joint, (offset, low, high) in zip(IDS, numbers, strict=True)
    }
    return joints | changes


def gripper(**values):
    """Text of a file with the gripper alone."""
    values = {"id": 6, "drive_mode": 0, "homing_offset": 0, "range_min": 2000, "range_max": 3000} | values
    return f'{{"gripper": {{{", ".join(f'"{key}": {value}' for key, value in values.items())}}}}}'


@pytest.mark.parametrize("numbers", FOLLOWERS)
def test_real_followers_are_accepted(numbers):
    assert check_calibration(calibration(numbers), FOLLOWER, IDS) == []


@pytest.mark.parametrize("numbers", LEADERS)
def test_real_leaders_are_accepted(numbers):
    assert check_calibration(calibration(numbers), LEADER, IDS) == []


@pytest.mark.parametrize(("low", "high"), GRIPPERS)
def test_real_grippers_are_accepted(low, high):
    assert check_calibration(calibration(gripper=entry(low, high, 6)), FOLLOWER, IDS) == []


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"shoulder_lift": entry(*TURN, 2, -481)},
            "shoulder_lift: .* whole turn.*passed the encoder's end",
        ),  # a real one
        ({"gripper": entry(48, 3637, 6)}, "gripper: a range of 315 degrees is impossible"),  # a real one
        ({"elbow_flex": entry(2000, 2400, 3)}, "elbow_flex: it was moved through only 35 degrees"),
        ({"gripper": entry(1000, 3000, 6)}, "gripper: a range of 176 degrees is impossible.* at most 156 apart"),
        ({"wrist_flex": entry(3000, 1000, 4)}, "wrist_flex: range_min 3000 is not below range_max 1000"),
        ({"wrist_flex": entry(700, 5000, 4)}, "wrist_flex: the range 700 to 5000 leaves the encoder's"),
        (
            {"shoulder_lift": entry(900, 3200, 3), "elbow_flex": entry(900, 3100, 2)},
            "shoulder_lift: its id is 3, that of elbow_flex, not 2",
        ),
        ({"elbow_flex": entry(900, 3100, 2)}, "shoulder_lift and elbow_flex have the same id 2"),
        ({"gripper": entry(2029, 3517, 9)}, "gripper: its id is 9, not 6"),
        ({"shoulder_pan": entry(859, 2931, 1, 2073)}, "shoulder_pan: no servo can hold a homing_offset of 2073"),
        ({"left_wheel": entry(*TURN, 7)}, "another kind of arm's: this one has no left_wheel"),
        ({"shoulder_pan": entry(*TURN, 1)}, "shoulder_pan: .*whole turn"),  # a Koch's
    ],
)
def test_damaged_calibrations_are_refused(changes, reason):
    problems = check_calibration(calibration(**changes), FOLLOWER, IDS)
    assert re.search(reason, problems[0])


def test_a_missing_joint():
    joints = calibration()
    del joints["wrist_flex"]
    assert check_calibration(joints, FOLLOWER, IDS) == ["wrist_flex: it is missing; calibrate again"]


def test_the_gripper_of_a_follower_is_not_a_leaders():
    assert "impossible" in check_calibration(calibration(FOLLOWERS[0]), LEADER, IDS)[0]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (gripper(range_min="NaN"), "range_min of gripper is nan, not a whole number"),
        (gripper(range_min='"9"'), "range_min of gripper is '9', not"),
        (gripper(homing_offset="1e9"), "homing_offset of gripper is 1000000000.0, not"),
        ('{"gripper": {"id": 6, "homing_offset": [0]}}', "gripper does not have id, drive_mode"),
        ('{"gripper": 6}', "gripper does not have id, drive_mode"),
        ("[]", "holds a list where an object belongs"),
        ('{"gripper": {"id": 6, "dri', "is damaged"),
        ("", "is damaged"),
    ],
)
def test_damaged_files_are_refused(content, reason, tmp_path):
    file = tmp_path / "my_arm.json"
    file.write_text(content)
    with pytest.raises(UserError, match=reason) as caught:
        read_calibration(file)
    assert "\n" not in str(caught.value)


def test_a_file_of_lerobot_is_read(tmp_path):
    file = tmp_path / "my_arm.json"
    file.write_text(json.dumps({joint: vars(numbers) for joint, numbers in calibration().items()}, indent=4))
    assert read_calibration(file) == calibration()
    with pytest.raises(UserError, match=r"there is no calibration .*step=calibrate"):
        read_calibration(tmp_path / "other.json")


def test_a_koch():
    """Its shoulder turns all the way, and the stops of the other joints are not known."""
    ranges = [TURN, (1000, 3000), (900, 3100), (800, 3300), TURN, (1900, 3000)]
    joints = {joint: entry(low, high, IDS[joint], 30_000) for joint, (low, high) in zip(IDS, ranges, strict=True)}
    assert check_calibration(joints, KOCH, IDS) == []
    collapsed = joints | {"shoulder_lift": entry(2033, 2118, 2)}  # a real one
    assert "only 7 degrees" in check_calibration(collapsed, KOCH, IDS)[0]
    assert "whole turn" in check_calibration(joints | {"elbow_flex": entry(*TURN, 3)}, KOCH, IDS)[0]


def test_an_unknown_arm_is_held_to_reason():
    assert arm_kind("hope_jr_arm") == ArmKind()
    assert check_calibration({"elbow": entry(1000, 3000), "wheel": entry(*TURN)}, ArmKind()) == []
    assert "only 9 degrees" in check_calibration({"elbow": entry(2000, 2100)}, ArmKind())[0]
