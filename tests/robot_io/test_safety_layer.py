"""The layer as a whole: what passes, what stops the arm and how it goes on, and what it leaves behind."""

import tracemalloc

import numpy as np
import pytest
from safety_arm import REST, TICK, Arm, make_limits

from robot_io.safety import ArmState, Cause, PersonView, Reaction, SafetyLayer

AWAY = REST + np.array([40, 20, -20, -20, 60, 50])
STOPPED = 15  # ticks in which any motion ends


def test_small_steps_pass_unchanged():
    arm = Arm()
    for tick in range(1, 60):
        command = REST + 5 * np.sin(0.05 * tick) * np.array([1, -1, 1, -1, 1, 1])
        sent = arm.step(command)
        assert np.array_equal(sent.position, command)
        assert sent.torque == 1
    assert arm.causes() == {}


def test_misuse_is_an_error():
    layer = SafetyLayer(make_limits())
    with pytest.raises(RuntimeError, match="start"):
        layer.step(0.0, REST, ArmState.of(REST, 0.0))
    with pytest.raises(ValueError, match="not finite"):
        layer.start(0.0, ArmState.of(REST * np.nan, 0.0))
    layer.start(0.0, ArmState.of(REST, 0.0))
    with pytest.raises(ValueError, match="7 numbers for the 6 joints"):
        layer.step(0.1, np.zeros(7), None)


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_commands_that_are_not_finite_are_as_good_as_none(poison):
    arm = Arm()
    arm.run(AWAY, 5)
    bad = AWAY.copy()
    bad[3] = poison
    arm.run(bad, 6 + STOPPED)
    assert np.isfinite(arm.poses).all()
    assert arm.moved() == 0
    assert {"not_finite", "no_command"} <= set(arm.causes())
    arm.run(AWAY, 60)
    assert np.array_equal(arm.poses[-1], AWAY)


def test_a_joint_s_range_is_kept_to():
    arm = Arm()
    sent = arm.run(np.full(6, 1e300), 120)
    assert np.allclose(sent.position, [joint.max for joint in arm.layer.limits.joints.values()], atol=1e-5)
    assert arm.causes()["joint_limit"]["ticks"] == 120


def test_silence_holds_then_takes_torque_away_and_a_command_ends_it():
    arm = Arm()
    arm.run(AWAY, 5)
    assert arm.run(None, 6).reaction == Reaction.FOLLOW  # 0.2 s
    assert arm.run(None, STOPPED).reaction == Reaction.HOLD
    assert arm.moved() == 0
    assert arm.run(None, 60).torque == 0.5
    assert arm.causes()["retreat"]["ticks"] > 0
    assert arm.run(AWAY, 60).torque == 1
    assert np.array_equal(arm.poses[-1], AWAY)


def test_silence_may_end_in_a_slow_retreat():
    limits = make_limits(watchdog={"then": "retreat"})
    arm = Arm(limits, start=AWAY)
    arm.run(AWAY, 1)
    sent = arm.run(None, 62)
    assert sent.reaction == Reaction.RETREAT
    sent = arm.run(None, 120)
    assert np.allclose(sent.position, limits.watchdog.retreat_pose)
    assert sent.torque == limits.watchdog.torque
    speed = np.abs(np.diff(arm.poses, axis=0)).max(axis=0) / TICK
    assert (speed <= [joint.speed * 0.25 + 1e-6 for joint in limits.joints.values()]).all()


@pytest.mark.parametrize("state", [None, "old", "nan"])
def test_an_arm_that_is_not_read_is_held(state):
    arm = Arm()
    arm.run(AWAY, 5)
    broken = {"old": arm.state(), "nan": arm.state(position=REST * np.nan)}.get(state)
    arm.run(AWAY, 9 + STOPPED, state=broken)
    assert arm.moved() == 0
    assert "no_reading" in arm.causes()
    arm.run(AWAY, 60)
    assert np.array_equal(arm.poses[-1], AWAY)


def test_a_person_stops_the_arm_until_nobody_was_seen_for_a_while():
    arm = Arm(make_limits(person={"enabled": True}))

    def look(probability, ticks, age=0.05):
        for _ in range(ticks):
            sent = arm.step(AWAY, person=PersonView(probability, arm.now - age))
        return sent

    look(0.1, 5)
    assert arm.moved() > 0
    assert look(0.9, STOPPED).reaction == Reaction.HOLD
    assert arm.moved() == 0
    held = arm.poses[-1]
    look(0.1, 55)
    assert np.array_equal(arm.poses[-1], held)
    look(0.1, 60)
    assert np.array_equal(arm.poses[-1], AWAY)
    assert arm.causes()["person"] == {"ticks": STOPPED, "interventions": 1}


@pytest.mark.parametrize("view", [None, PersonView(0.0, 0.0), PersonView(np.nan, 1e9)])
def test_an_arm_that_nobody_watches_is_held(view):
    arm = Arm(make_limits(person={"enabled": True}))
    arm.run(AWAY, 10, person=view)
    assert np.array_equal(arm.poses[-1], REST)


def test_the_emergency_stop_stops_then_cuts_torque_and_only_resume_ends_it():
    arm = Arm()
    arm.run(AWAY, 5)
    arm.layer.emergency_stop.press("test")
    assert arm.run(AWAY, STOPPED).torque == 1
    assert arm.moved() == 0
    assert arm.run(AWAY, 30).torque == 0
    arm.layer.emergency_stop.release()
    assert arm.run(AWAY, 10).torque == 0  # it has sunk to who knows where
    sunk = arm.poses[-1] + [0, 10, 0, 0, 0, 0]
    arm.layer.resume(arm.now, arm.state(position=sunk))
    sent = arm.step(AWAY)
    assert sent.torque == 1
    assert np.abs(sent.position - sunk).max() < 2
    arm.run(AWAY, 60)
    assert np.array_equal(arm.poses[-1], AWAY)


def test_an_emergency_stop_may_hold_for_ever():
    arm = Arm(make_limits(emergency_stop={"torque_off_s": None}))
    arm.layer.emergency_stop.press("test")
    assert arm.run(AWAY, 300).torque == 1
    assert arm.moved(300) == 0


@pytest.mark.parametrize("trouble", ["load", "lag"])
def test_a_joint_in_trouble_gives_way_and_then_is_commanded_again(trouble):
    arm = Arm()
    arm.run(AWAY - [30, 0, 0, 0, 0, 0], 60)
    behind = AWAY - [30 if trouble == "lag" else 5, 0, 0, 0, 0, 0]

    def troubled():
        state = arm.state(position=np.minimum(arm.poses[-1], behind))  # it is blocked there
        state.load[0] = -0.95 if trouble == "load" else 0.1
        return state

    while np.abs(arm.poses[-1] - AWAY).max() > (5 if trouble == "lag" else 0):
        sent = arm.step(AWAY, troubled()) if trouble == "lag" else arm.step(AWAY)
        assert sent.reaction == Reaction.FOLLOW
    for _ in range(15):
        assert arm.step(AWAY, troubled()).reaction == Reaction.FOLLOW
    sent = [arm.step(AWAY, troubled()) for _ in range(20)][-1]
    assert sent.reaction == Reaction.GIVE_WAY
    assert sent.torque == 0.5
    assert sent.position[0] == troubled().position[0]
    assert np.array_equal(sent.position[1:], AWAY[1:])
    arm.run(AWAY, 5)
    assert arm.poses[-1][0] == sent.position[0]  # well again, but not for long enough
    arm.run(AWAY, 90)
    assert np.array_equal(arm.poses[-1], AWAY)
    assert arm.causes()[trouble]["interventions"] == 1


def test_a_joint_gives_way_only_to_a_position_that_was_read():
    arm = Arm()
    arm.run(AWAY, 5)
    arm.run(AWAY, 40, state=arm.state(position=AWAY * np.nan, load=0.9))
    assert np.isfinite(arm.poses).all()


def test_a_hot_servo_stops_the_arm_until_it_has_cooled():
    arm = Arm()
    for temperature, reaction in ((59, Reaction.FOLLOW), (61, Reaction.HOLD), (57, Reaction.HOLD)):
        arm.now += 0  # readings are of the tick
        sent = arm.step(AWAY, arm.state(temperature=[35, 35, temperature, np.nan, 35, 35], time=arm.now + TICK))
        assert sent.reaction == reaction, temperature
    assert arm.step(AWAY, arm.state(temperature=54)).reaction == Reaction.FOLLOW


def test_reports_of_load_and_temperature_may_be_required():
    silent = ArmState.of(REST, 1e9)
    assert Arm().step(AWAY, silent).reaction == Reaction.FOLLOW
    assert Arm(make_limits(servo={"required": True})).step(AWAY, silent).reaction == Reaction.HOLD


def test_a_call_too_early_is_no_tick_and_one_too_late_begins_from_rest():
    arm = Arm()
    arm.run(AWAY, 6)
    assert np.array_equal(arm.step(AWAY, after=0.2 * TICK).position, arm.poses[-2])
    arm.step(AWAY, after=0.8 * TICK)
    assert arm.moved() > 3
    arm.step(AWAY, after=5 * TICK)
    assert 0 < arm.moved() < 2
    assert set(arm.causes()) >= {"early_tick", "late_tick"}


def test_steps_keep_no_memory(caplog):
    caplog.set_level("ERROR", "robot_io")  # pytest keeps what is logged
    arm = Arm(make_limits("so101"))
    commands = np.random.default_rng(0).uniform(-90, 90, (15, 6))
    state, now = arm.state(), arm.now

    def play():
        nonlocal now
        for command in commands:
            for _ in range(5):
                now += TICK
                state.time = now
                state.position[:] = arm.layer.step(now, command, state).position

    play()
    tracemalloc.start()
    play()
    before = tracemalloc.get_traced_memory()[0]
    tracemalloc.reset_peak()
    play()
    after, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert after - before < 2000  # bytes
    assert peak - before < 20_000


def test_the_report_tells_what_happened_when():
    arm = Arm()
    for _ in range(2):
        arm.run(None, 10)
        arm.run(REST, 5)
    report_dict = arm.layer.report.to_dict()
    assert report_dict["ticks"] == 30
    assert report_dict["causes"] == {"no_command": {"ticks": 8, "interventions": 2}}
    first, second = report_dict["log"]
    assert first["cause"] == second["cause"] == "no_command"
    assert first["end_s"] - first["start_s"] == pytest.approx(3 * TICK)
    assert second["start_s"] - first["start_s"] == pytest.approx(15 * TICK)


def test_a_long_report_keeps_its_end():
    from robot_io.safety import Interventions

    report = Interventions(log_size=4)
    for tick in range(20):
        if tick % 2:
            report.note(Cause.JERK)
        report.close(float(tick))
    report_dict = report.to_dict()
    assert report_dict["causes"]["jerk"] == {"ticks": 10, "interventions": 10}
    assert [entry["start_s"] for entry in report_dict["log"]] == [13, 15, 17, 19]


def test_the_log_is_told_of_a_cause_once_a_second(caplog):
    from robot_io.safety import Interventions

    report = Interventions()
    for tick in range(50):
        report.note(Cause.PERSON)
        report.close(0.4 * tick)  # each is an intervention of its own
    assert report.to_dict()["causes"]["person"]["interventions"] == 50
    assert len(caplog.records) == 17  # in 20 seconds
