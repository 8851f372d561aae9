"""Running a policy on an arm: what is checked first, how episodes go and end, and what is left behind."""

import gc
import json
import os
import re
import signal

import numpy as np
import pytest
from fake_arm import FOLDED, HIGH, JOINTS, LOW, FakeArm, FakeRunner

from configs.composing import as_dict, load_config
from robot_io.deployment import (
    Deployment,
    Episode,
    Printer,
    check_fit,
    limits_at_rate,
    real_episodes,
    watch_for_people,
)
from robot_io.deployment.arm_session import RobotArm
from robot_io.deployment.command_sources import SlowPath, check_arrived
from robot_io.safety import Reaction, SafetyLayer, SafetyLimits
from tinyvla.errors import UserError

START = (0.0, -90.0, 85.0, 60.0, 3.0, 10.0)
NAMES = [f"{joint}.pos" for joint in JOINTS]


@pytest.fixture(scope="module")
def safety():
    """An SO-101's limits without its geometry, which is tested elsewhere; the emergency stop cuts torque at once."""
    cfg = as_dict(load_config("deploy", ["checkpoint=none"]).safety)
    cfg["emergency_stop"]["torque_off_s"] = 0.05
    return cfg | {"model": None}


@pytest.fixture
def layer(safety):
    return SafetyLayer(SafetyLimits.decode(safety))


class Log:
    """A watcher that remembers."""

    def __init__(self, at_tick=None):
        self.ticks, self.ends, self.at_tick = [], [], at_tick

    def begin(self, episode):
        pass

    def observe(self, tick):
        self.ticks.append(tick)
        if self.at_tick:
            self.at_tick(len(self.ticks))

    def end(self, result):
        self.ends.append(result)

    def report(self):
        return {"log": len(self.ticks)}


@pytest.mark.parametrize(
    ("runner", "trained", "what"),
    [
        (
            FakeRunner(cameras=("front", "wrist")),
            None,
            "needs the cameras front, wrist but the robot has front; add wrist",
        ),
        (FakeRunner(numbers=4), None, "a 4-d state but the robot has 6 joints"),
        (
            FakeRunner(),
            {"action": [f"{joint}.pos" for joint in reversed(JOINTS)]},
            "was trained with an action of gripper.pos, wrist",
        ),
        (
            FakeRunner(),
            {"observation.state": ["x", "y"], "action": NAMES},
            "was trained with an observation.state of x, y but the robot has shoulder_pan.pos",
        ),
        (FakeRunner(low=np.radians(LOW), high=np.radians(HIGH)), None, "less than a tenth of every joint's range"),
        (
            FakeRunner(low=np.array(LOW) - 180),
            None,
            "shoulder_pan went from -270 to 90 but the joint goes from -108 to",
        ),
        (FakeRunner(high=[np.nan] * 6), None, "are not finite"),
        (
            FakeRunner(low=[-98, -98, -97, -96, -98, 0], high=[98, 98, 97, 96, 98, 100]),
            None,
            "goes to the ends of -100 to 100 and never beyond, as recordings with use_degrees=false do",
        ),
        (
            FakeRunner(low=[-20, -100, 0, 40, -30, 0], high=[20, -40, 100, 80, 50, 100]),
            None,
            "train it again with dataset.calibration=",
        ),
    ],
)
def test_a_policy_that_does_not_fit_never_moves_the_arm(runner, trained, what, layer, tmp_path):
    arm = FakeArm()
    with pytest.raises(UserError, match=re.escape(what)):
        Deployment(arm, runner, layer, trained_names=trained).run([Episode("go", 0.1)], tmp_path)
    assert (arm.sent, arm.connected) == ([], False)


@pytest.mark.parametrize(("shape", "warnings"), [((32, 32), 0), ((480, 640), 1), ((None, None), 0)])
def test_cameras_of_any_size_fit_and_another_shape_is_said_once(shape, warnings, layer, tmp_path, caplog):
    arm = FakeArm()
    arm.observation_features["front"] = (*shape, 3)
    Deployment(arm, FakeRunner(), layer).run([Episode("go", 0.1)], tmp_path)
    lines = [record.message for record in caplog.records if "another view" in record.message]
    assert len(lines) == warnings
    if lines:
        assert "front gives 640x480 pixels and the policy's recordings had 16x16: it sees their middle" in lines[0]


@pytest.mark.parametrize(
    ("fps", "is_set", "rate_hz"), [(10, False, 10), (50, False, 50), (None, True, 30), (30, True, 30)]
)
def test_the_loop_runs_at_the_rate_of_the_recordings(fps, is_set, rate_hz, safety):
    assert limits_at_rate(safety, fps, is_set).rate_hz == rate_hz


@pytest.mark.parametrize(
    ("fps", "is_set", "what"),
    [
        (10, True, "on 10 frames per second and safety.rate_hz=30 would play them 3 times as fast; leave"),
        (900, False, "cannot be driven at that rate: safety.rate_hz=900 is not a rate"),
    ],
)
def test_a_rate_that_does_not_fit_the_recordings_is_refused(fps, is_set, what, safety):
    with pytest.raises(UserError, match=re.escape(what)):
        limits_at_rate(safety, fps, is_set)


def test_what_fits_passes_also_without_min_and_max(safety):
    runner, limits = FakeRunner(), SafetyLimits.decode(safety)
    check_fit(runner, FakeArm().observation_features, limits, {"action": NAMES, "observation.state": NAMES})
    unknown = FakeArm().observation_features | {"front": (None, None, 3)}
    check_fit(runner, unknown, limits)
    middle = {"mean": np.zeros(6), "std": np.full(6, 2.0)}
    runner.preprocessor.steps[0].stats = {"observation.state": middle}
    with pytest.raises(UserError, match=r"observation\.state covers less than a tenth"):
        check_fit(runner, unknown, limits)


def test_limits_of_another_arm_are_refused(safety, tmp_path):
    limits = SafetyLimits.decode(safety | {"joints": dict(reversed(safety["joints"].items()))})
    with pytest.raises(UserError, match=r"safety\.joints are gripper, .* choose the safety configuration of"):
        Deployment(FakeArm(), FakeRunner(), SafetyLayer(limits)).run([], tmp_path)


def test_a_slow_path_keeps_to_its_share_of_the_speed_limits(safety):
    limits, now = SafetyLimits.decode(safety), [0.0]
    path = SlowPath(np.zeros(6), np.array([90.0, -30, 0, 0, 0, 40]), limits, 0.25, clock=lambda: now[0])
    poses = [np.zeros(6)]
    while not path.is_done():
        poses.append(path.command(named(poses[-1])))
        now[0] += 1 / 30
    assert now[0] < path.seconds
    speeds = np.abs(np.diff(poses, axis=0)).max(axis=0) * 30
    assert speeds[0] == pytest.approx(0.25 * 120, rel=0.02)
    assert (speeds <= 0.25 * np.array([joint.speed for joint in limits.joints.values()]) * 1.001).all()
    assert poses[-1] == pytest.approx([90, -30, 0, 0, 0, 40])
    assert SlowPath(np.ones(6), np.ones(6), limits, 0.25).command(named(np.ones(6))) == pytest.approx(np.ones(6))


def named(pose):
    return dict(zip([f"{joint}.pos" for joint in JOINTS], pose.tolist(), strict=True))


def test_a_slow_path_waits_for_an_arm_that_is_held_up(safety):
    limits, now = SafetyLimits.decode(safety), [0.0]
    path = SlowPath(np.zeros(6), np.array([90.0, 0, 0, 0, 0, 0]), limits, 0.25, clock=lambda: now[0])
    for _ in range(300):
        pose = path.command(named(np.zeros(6)))
        now[0] += 1 / 30
    assert 12 <= pose[0] < 15
    assert not path.is_done()
    patient = SlowPath(np.zeros(6), np.ones(6), limits, 0.25, give_up_s=1.0, clock=lambda: now[0])
    for _ in range(90):
        assert not patient.is_done() or now[0] > 11
        patient.command(named(np.full(6, 20.0)))
        now[0] += 1 / 30
    assert patient.is_done()
    path.command(named(np.zeros(6)))
    now[0] += 60  # a computer that slept does not make the arm hurry
    assert path.command(named(pose))[0] - pose[0] < 0.25 * 120 * 2 / 30


def test_an_arm_that_does_not_arrive_is_told(safety):
    limits = SafetyLimits.decode(safety)
    with pytest.raises(UserError, match="shoulder_lift is at -30 instead of -48"):
        check_arrived(np.array([0, -30.0, 0, 0, 0, 0]), np.array([1, -48.0, 0, 0, 0, 0]), limits)


def test_episodes_from_the_approach_to_the_report(layer, tmp_path, capsys):
    arm, runner, log, laid_out = FakeArm(), FakeRunner(), Log(), []
    first = Episode(
        "reach it", 0.5, START, "reach", 7, lambda: laid_out.append(dict(arm.pose)), lambda: len(log.ticks) == 4
    )
    second = Episode("lift it", 0.2, START, "lift", 8, None, lambda: False)
    run = Deployment(arm, runner, layer, [log, Printer(JOINTS)], approach_speed=1.0)
    report = run.run([first, second], tmp_path)
    assert report == json.loads((tmp_path / "deploy.json").read_text())
    assert [(e["task"], e["seed"], e["success"], e["ended"]) for e in report["episodes"]] == [
        ("reach", 7, True, "done"),
        ("lift", 8, False, "time"),
    ]
    assert (report["ended"], report["successes"], report["log"]) == ("time", 1, len(log.ticks))
    assert report["episodes"][0]["ticks"] == 4
    assert report["timing"]["ticks"] == len(log.ticks) > 4
    assert runner.seeds == [7, 8]
    assert list(laid_out[0].values()) == pytest.approx(START, abs=0.1)
    assert [observation["task"] for observation in (runner.observations[0], runner.observations[-1])] == [
        "reach it",
        "lift it",
    ]
    # The first observation and the first command of the policy belong together.
    assert log.ticks[0].policy_pose == pytest.approx(np.array(START) + 0.2, abs=0.1)
    assert list(arm.pose.values()) == pytest.approx(np.clip(FOLDED, *ends(layer)), abs=0.1)  # where it was found
    assert not arm.connected
    out = capsys.readouterr().out
    assert "success after 0.1 s" in out
    assert "1 of 2 episodes succeeded" in run.describe()


def test_a_collection_of_all_garbage_does_not_stop_the_loop_for_long(layer, tmp_path):
    ballast = [[number] for number in range(300_000)]
    looked_at = []
    log = Log(at_tick=lambda _: looked_at.append(len(gc.get_objects())))
    before = len(gc.get_objects())
    Deployment(FakeArm(), FakeRunner(), layer, [log], approach_speed=1.0).run([Episode("go", 0.1, START)], tmp_path)
    assert before > len(ballast) > max(looked_at)
    assert gc.get_freeze_count() == 0


def ends(layer):
    joints = layer.limits.joints.values()
    return [joint.min for joint in joints], [joint.max for joint in joints]


def test_without_a_start_pose_the_policys_first_action_is_approached(layer, tmp_path):
    arm, runner = FakeArm(), FakeRunner(step=3.0)
    Deployment(arm, runner, layer, approach_speed=1.0).run(real_episodes("go", 1, 0.1, None, 0), tmp_path)
    steps = np.abs(np.diff(np.array(arm.sent), axis=0))
    assert len(runner.seeds) == 2  # once to know where to go, once from there
    assert steps.max() < 180 / 30 + 1e-6


def test_in_a_dry_run_nothing_is_sent(layer, tmp_path, capsys):
    arm, log = FakeArm(), Log()
    run = Deployment(arm, FakeRunner(), layer, [log, Printer(JOINTS, poses=True)], dry_run=True)
    report = run.run([Episode("go", 0.2, START)], tmp_path)
    assert (arm.sent, report["dry_run"], report["episodes"][0]["success"]) == ([], True, None)
    assert len(log.ticks) > 2
    assert "would send shoulder_pan" in capsys.readouterr().out


def test_ctrl_c_stops_the_arm_and_leaves_a_report(layer, tmp_path):
    arm, log = FakeArm(), Log(at_tick=lambda tick: tick == 3 and os.kill(os.getpid(), signal.SIGINT))
    run, before = Deployment(arm, FakeRunner(), layer, [log], approach_speed=1.0), signal.getsignal(signal.SIGINT)
    report = run.run([Episode("go", 5, START), Episode("never", 5, START)], tmp_path)
    assert (report["ended"], len(report["episodes"]), arm.connected) == ("SIGINT", 1, False)
    assert json.loads((tmp_path / "deploy.json").read_text())["episodes"][0]["ended"] == "SIGINT"
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("where", ["arm", "policy", "watcher"])
def test_whatever_fails_the_arm_is_let_go_and_the_report_written(where, layer, tmp_path, monkeypatch):
    arm, runner = FakeArm(), FakeRunner()
    log = Log(at_tick=lambda tick: where == "watcher" and tick == 3 and 1 / 0)
    if where == "arm":
        arm.fail_after = 60
    if where == "policy":
        act = runner.act
        monkeypatch.setattr(
            runner, "act", lambda observation: act(observation) if len(runner.observations) < 4 else {}["missing"]
        )
    with pytest.raises((UserError, ConnectionError, ZeroDivisionError, KeyError)):
        Deployment(arm, runner, layer, [log], approach_speed=1.0).run([Episode("go", 30, START)], tmp_path)
    report = json.loads((tmp_path / "deploy.json").read_text())
    assert report["ended"] in ("UserError", "ConnectionError", "ZeroDivisionError", "KeyError")
    assert report["episodes"][0]["ended"] == "error"
    assert (report["log"], arm.connected) == (len(log.ticks), False)


def test_a_late_chunk_holds_the_arm_and_a_policy_that_hangs_is_one_line(layer, tmp_path, monkeypatch):
    monkeypatch.setattr("robot_io.deployment.command_sources._HANGING_S", 0.5)
    arm, runner, log = FakeArm(), FakeRunner(step=1.0), Log()
    act, last = runner.act, np.array(START)

    def hang(observation):
        nonlocal last
        if len(log.ticks) < 5:
            last = act(observation)
        else:
            runner.held += 1
        return last

    monkeypatch.setattr(runner, "act", hang)
    with pytest.raises(UserError, match="put out nothing new for"):
        Deployment(arm, runner, layer, [log], approach_speed=1.0).run([Episode("go", 30, START)], tmp_path)
    assert len(log.ticks) == 5 + 15
    assert log.ticks[6].reaction == Reaction.FOLLOW
    assert log.ticks[-1].reaction == Reaction.HOLD
    assert "no_command" in json.loads((tmp_path / "deploy.json").read_text())["safety"]["causes"]


@pytest.mark.parametrize(("number", "name"), [(signal.SIGTERM, "SIGTERM"), (signal.SIGHUP, "SIGHUP")])
def test_what_ends_a_program_stops_the_arm_first(number, name, layer, tmp_path):
    arm, log = FakeArm(), Log(at_tick=lambda tick: tick == 3 and os.kill(os.getpid(), number))
    report = Deployment(arm, FakeRunner(), layer, [log], approach_speed=1.0).run([Episode("go", 5, START)], tmp_path)
    assert (report["ended"], arm.connected) == (name, False)


class Camera:
    latest_timestamp = 0.0


def test_stale_images_fail_the_reading():
    arm, now = FakeArm(), [10.0]
    arm.cameras = {"front": Camera()}
    robot_arm = RobotArm(arm, 0.5, clock=lambda: now[0])

    def tick(age=0.0, moved=1.0, new=False):
        now[0] += 0.1
        arm.cameras["front"].latest_timestamp = now[0] - age
        arm.pose["elbow_flex.pos"] += moved
        arm._image += new
        return robot_arm.get_observation()

    for _ in range(20):
        tick(moved=0.0)  # nothing moves, and so nothing changes
        tick(new=True)
    with pytest.raises(TimeoutError, match=r"the newest image of front is 0\.6 s old"):
        tick(age=0.6, moved=0.0)
    for _ in range(10):  # a degree each
        tick()
    with pytest.raises(TimeoutError, match=r"front has given the same image for 1\.\d s while the arm moved"):
        tick()
    tick(new=True)


def test_a_person_takes_over_and_the_policy_goes_on_predicting(layer, tmp_path):
    arm, runner, log = FakeArm(), FakeRunner(), Log()
    wished = np.add(START, (10, 0, 0, 0, 0, 0))
    run = Deployment(
        arm, runner, layer, [log], lambda observation: wished if 3 <= len(log.ticks) < 6 else None, approach_speed=1.0
    )
    run.run([Episode("go", 0.35, START)], tmp_path)
    assert [tick.intervention for tick in log.ticks[:8]] == [False] * 3 + [True] * 3 + [False] * 2
    assert log.ticks[5].sent[0] > log.ticks[2].sent[0] + 2
    policy_poses = np.array([tick.policy_pose[1] for tick in log.ticks])
    assert np.diff(policy_poses) == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("", 1, None, None, 0), "instruction is not given"),
        (("go", 0, None, None, 0), "episodes is 0"),
        (("go", 1, -1.0, None, 0), "seconds is -1"),
    ],
)
def test_episodes_that_make_no_sense(arguments, what):
    with pytest.raises(UserError, match=what):
        real_episodes(*arguments)


def test_settings_that_make_no_sense(layer, tmp_path):
    with pytest.raises(UserError, match="approach_speed=0 is not a share"):
        Deployment(FakeArm(), FakeRunner(), layer, approach_speed=0)
    with pytest.raises(UserError, match="start_pose has 2 numbers; give one for each of shoulder_pan"):
        Deployment(FakeArm(), FakeRunner(), layer).run([Episode("go", 1, (1.0, 2.0))], tmp_path)


def bright_as_person(image):
    return float(image.mean() > 100)


def test_the_arm_stands_still_while_a_person_is_in_view(safety, tmp_path):
    person_limits = safety["person"] | {"enabled": True, "resume_s": 0.1}
    layer = SafetyLayer(SafetyLimits.decode(safety | {"person": person_limits}))
    arm, log = FakeArm(), Log()
    log.at_tick = lambda tick: arm._image.fill(255 if tick >= 10 else 0)
    with watch_for_people("test_deployment.bright_as_person", "front", layer.limits) as person:
        run = Deployment(arm, FakeRunner(step=1.0), layer, [log], approach_speed=1.0, person=person)
        run.run([Episode("go", 1.5, START)], tmp_path)
    sent = np.array([tick.sent[0] for tick in log.ticks])
    assert sent[9] > sent[0] + 1
    assert np.ptp(sent[-5:]) == 0
    assert "person" in run.report["safety"]["causes"]


@pytest.mark.parametrize("detector", [None, "no.such.detector"])
def test_the_person_gate_needs_a_detector(detector, safety):
    limits = SafetyLimits.decode(safety | {"person": safety["person"] | {"enabled": True}})
    with pytest.raises(UserError, match="person_detector="), watch_for_people(detector, "front", limits):
        pass
