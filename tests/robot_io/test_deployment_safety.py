"""Deployment on an arm with wrong readings, with a person who takes over, and with an object in its hand."""

from types import SimpleNamespace

import numpy as np
import pytest
from fake_arm import FOLDED, JOINTS, FakeArm, FakeRunner
from test_deployment import START, Camera, Log

from configs.composing import as_dict, load_config
from robot_io.arms import check_limits
from robot_io.deployment import Deployment, Episode
from robot_io.deployment.arm_session import RobotArm
from robot_io.deployment.command_sources import SlowPath, check_arrived, check_unmoved
from robot_io.safety import SafetyLayer, SafetyLimits
from tinyvla.errors import UserError

NAMES = [f"{joint}.pos" for joint in JOINTS]
HOME = (0.0, -80.0, 80.0, 60.0, 0.0, 10.0)


@pytest.fixture(scope="module")
def limits():
    cfg = as_dict(load_config("deploy", ["checkpoint=none"]).safety)
    cfg["emergency_stop"]["torque_off_s"] = 0.05
    return SafetyLimits.decode(cfg | {"model": None})


class WrongArm(FakeArm):
    """Gives wrong positions at some of its readings."""

    def __init__(self, reads, wrong):
        super().__init__()
        self.pose, self.reads = dict(zip(NAMES, HOME, strict=True)), 0
        self._wrong_reads, self._wrong = reads, wrong

    def get_observation(self):
        self.reads += 1
        observation = super().get_observation()
        wrong = self.reads in self._wrong_reads
        return observation | {name: observation[name] + (wrong and self._wrong) for name in NAMES[:3]}


class Standing(FakeRunner):
    """Wants the pose that it sees first; remembers all that it sees."""

    def act(self, observation):
        self.observations.append(observation)
        return np.array(self.observations[0]["observation.state"], dtype=float)


@pytest.mark.parametrize("start_pose", [HOME, None])
@pytest.mark.parametrize("wrong", [360.0, pytest.param(30.0, marks=pytest.mark.slow)])
def test_a_wrong_reading_at_any_moment_moves_nothing(limits, tmp_path, wrong, start_pose):
    for first in range(1, 6):
        arm, runner, log = WrongArm(range(first, 1000, 5), wrong), Standing(), Log()
        run = Deployment(arm, runner, SafetyLayer(limits), [log], approach_speed=1.0)
        run.run([Episode("stand", 0.3, start_pose)], tmp_path / str(first))
        assert np.abs(np.array(arm.sent) - HOME).max() < 1e-3, first
        positions = [observation["observation.state"] for observation in runner.observations]
        positions += [tick.position for tick in log.ticks]
        assert len(positions) > 12
        assert np.abs(np.array(positions) - HOME).max() < 1e-3, first


def test_an_arm_whose_readings_stay_wrong_is_not_driven_back(limits, tmp_path):
    arm, log = WrongArm(range(50, 10_000), 30.0), Log()
    run = Deployment(arm, Standing(), SafetyLayer(limits), [log], approach_speed=1.0)
    with pytest.raises(UserError, match="reads 30 but the arm was left at 0; clear its way and check its cable"):
        run.run([Episode("stand", 2.0, HOME)], tmp_path)
    assert np.abs(np.array(arm.sent) - HOME).max() < 1e-3
    assert run.report["safety"]["causes"].keys() >= {"impossible_reading", "displaced"}


def test_positions_that_jump_at_the_start_end_the_run(limits, tmp_path):
    arm = WrongArm(range(1, 100, 2), 40.0)
    with pytest.raises(UserError, match="positions jump from reading to reading"):
        Deployment(arm, Standing(), SafetyLayer(limits)).run([Episode("stand", 0.2, HOME)], tmp_path)
    assert arm.sent == []


def test_takeover_and_release_are_slow(limits, tmp_path):
    arm, log = FakeArm(), Log()
    wished = np.add(START, (40, 0, 0, 0, 0, 0))

    def operator(observation):
        return wished if 3 <= len(log.ticks) < 50 else None

    Deployment(arm, FakeRunner(step=0.0), SafetyLayer(limits), [log], operator, approach_speed=1.0).run(
        [Episode("go", 3.2, START)], tmp_path
    )
    pans = np.array([tick.sent[0] for tick in log.ticks])
    assert pans[49] == pytest.approx(40, abs=0.1)
    assert pans[-1] == pytest.approx(0, abs=0.1)
    slow = np.abs(np.diff(pans))[np.r_[3:30, 50:77]]
    assert slow.max() == pytest.approx(0.25 * 120 / 30)


def test_normalised_units_are_refused_before_anything_moves(limits, tmp_path):
    arm = FakeArm()
    arm.config = SimpleNamespace(port=None, use_degrees=False)
    with pytest.raises(UserError, match=r"safety\.joints are in degrees; set robot\.use_degrees=true"):
        Deployment(arm, FakeRunner(), SafetyLayer(limits))
    assert not arm.connected
    cfg = as_dict(load_config("deploy", ["checkpoint=none"]).safety)
    cfg["joints"] = {name: joint | {"min": -95, "max": 95} for name, joint in cfg["joints"].items()}
    check_limits(arm, SafetyLimits.decode(cfg | {"model": None}))  # limits that are in these units
    with pytest.raises(UserError, match="use_degrees=true"):
        check_limits(arm, SafetyLimits.decode(cfg))


def test_a_held_object_does_not_stop_a_path(limits):
    now, pose, goal = [0.0], np.array(FOLDED), np.array([20.0, -90, 85, 60, 0, 2])
    path = SlowPath(pose, goal, limits, 0.25, clock=lambda: now[0])
    while not path.is_done() and now[0] < path.seconds:
        now[0] += 1 / 30
        pose = path.command(dict(zip(NAMES, [*pose[:5], 45.0], strict=True)))
    assert path.is_done()
    check_arrived(np.array([*goal[:5], 45.0]), goal, limits)
    check_unmoved(np.array([*goal[:5], 45.0]), goal, limits)
    check_unmoved(goal, None, limits)


def test_an_impossible_position_does_not_make_an_image_stale(limits):
    arm, now = FakeArm(), [10.0]
    arm.cameras = {"front": Camera()}

    def is_possible(position, time):
        return abs(position[2]) < 200

    robot_arm = RobotArm(arm, 0.5, is_possible=is_possible, clock=lambda: now[0])
    for tick in range(40):
        now[0] += 0.1
        arm.cameras["front"].latest_timestamp = now[0]
        arm.pose["elbow_flex.pos"] = 450.0 if tick > 10 else 90.0
        robot_arm.get_observation()
    arm.pose["elbow_flex.pos"] = 110.0
    with pytest.raises(TimeoutError, match="same image"):
        robot_arm.get_observation()
