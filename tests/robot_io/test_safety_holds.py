"""Holds: a joint that presses gives way, a gripper grips, and the arm comes back to its command slowly."""

import numpy as np
import pytest
from safety_arm import REST, TICK, Arm, make_limits

from robot_io.safety import ArmState, PersonView, Reaction, SafetyLayer
from tinyvla.errors import UserError

AWAY = REST + np.array([40, 20, -20, -20, 60, 50])
FULL_SPEEDS = np.array([joint.speed for joint in make_limits().joints.values()]) * TICK


def speeds(arm, since):
    """Greatest steps of the joints from a tick on, as shares of their speed limits."""
    return (np.abs(np.diff(arm.poses[since:], axis=0)) / FULL_SPEEDS).max(axis=1)


def watched(**servo):
    return Arm(make_limits(person={"enabled": True, "resume_s": 0.1}, servo=servo))


# --- grippers ---


@pytest.mark.parametrize("width", [27.0, 45.0, 60.0])
@pytest.mark.parametrize("load", [0.48, 1.0, -1.0, np.nan])
def test_a_gripper_that_holds_an_object_keeps_its_goal_and_freezes_nothing(width, load):
    arm = Arm(start=[*REST[:5], 80])
    loads = np.array([0.1] * 5 + [load])
    for tick in range(300):
        command = REST + 10 * np.sin(0.05 * tick) * np.array([1, -1, 1, -1, 1, 0])
        command[5] = max(80 - 2 * tick, 1)
        at = np.append(arm.poses[-1][:5], max(arm.poses[-1][5], width))
        sent = arm.step(command, arm.state(position=at, load=loads))
        assert (sent.reaction, sent.torque) == (Reaction.FOLLOW, 1.0)
        assert np.array_equal(sent.position[:5], command[:5])
    assert arm.poses[-1][5] == 1
    assert not {"load", "lag"} & set(arm.causes())


def test_a_gripper_is_known_by_its_name_or_declared():
    joints = {f"left_{name}": joint for name, joint in make_limits().joints.items()}
    assert make_limits(joints=joints, watchdog={"retreat_pose": []}).grips == 2 * ([False] * 5 + [True])
    assert make_limits(servo={"grippers": ["wrist_roll"]}).grips == [False] * 4 + [True, False]
    assert make_limits(servo={"grippers": []}).grips == [False] * 6
    with pytest.raises(UserError, match=r"servo.grippers: there is no joint 'jaw'; name some of shoulder_pan"):
        make_limits(servo={"grippers": ["jaw"]})


def test_an_arm_with_an_object_in_its_hand_yields_with_the_other_joints():
    arm = Arm()
    state = lambda: arm.state(position=np.append(arm.poses[-1][:5], 45.0), load=[0.95] + [0.1] * 4 + [1.0])  # noqa: E731
    for _ in range(40):
        sent = arm.step(REST, state())
    assert sent.reaction == Reaction.GIVE_WAY
    assert sent.position[5] == REST[5]


# --- yield outranks hold ---


def press(arm, ticks, reason, at, load=0.95):
    """Hold the arm for a reason, while its shoulder pushes against something at `at`."""
    sent = []
    for _ in range(ticks):
        pushes = arm.poses[-1][0] > at + 0.01
        position = np.append(min(arm.poses[-1][0], at), arm.poses[-1][1:])
        state = arm.state(position=position, load=[load if pushes else 0.05] + [0.1] * 5)
        view = PersonView(float(reason == "person"), arm.now + TICK - 0.05)
        sent.append(arm.step(None if reason == "silence" else AWAY, state, view))
    return sent


@pytest.mark.parametrize("reason", ["person", "silence", "emergency stop"])
def test_a_held_arm_does_not_press(reason):
    arm = watched()
    arm.run(AWAY, 60, person=PersonView(0.0, 1e9))
    if reason == "emergency stop":
        arm.layer.emergency_stop.press("test")
    sent = press(arm, 25, reason, at=AWAY[0] - 10)
    assert Reaction.HOLD in [command.reaction for command in sent[:15]]
    assert sent[-1].reaction == Reaction.GIVE_WAY
    assert sent[-1].torque <= 0.5
    assert sent[-1].position[0] == AWAY[0] - 10
    assert np.array_equal(sent[-1].position[1:], AWAY[1:])
    last = press(arm, 60, reason, at=AWAY[0] - 10)[-1]
    assert last.reaction == Reaction.HOLD
    assert last.position[0] == AWAY[0] - 10  # and it does not begin to press again


def test_a_held_arm_that_carries_itself_does_not_sag():
    arm = watched()
    arm.run(AWAY, 60, person=PersonView(0.0, 1e9))
    for _ in range(150):  # it hangs 3 degrees below its goal, with loads of gravity
        state = arm.state(position=arm.poses[-1] - [0, 3, 3, 1, 0, 0], load=[0.05, -0.6, 0.4, 0.2, 0.0, 0.1])
        assert arm.step(AWAY, state, PersonView(1.0, arm.now)).reaction == Reaction.HOLD
    assert np.array_equal(arm.poses[-1], AWAY)


def test_a_joint_that_gives_way_and_no_longer_presses_does_not_sink():
    arm = Arm()
    arm.run(AWAY, 60)
    for _ in range(20):
        arm.step(AWAY, arm.state(position=AWAY - [0, 5, 0, 0, 0, 0], load=[0, -0.95, 0, 0, 0, 0]))
    for _ in range(10):  # with less torque it hangs lower
        sent = arm.step(AWAY, arm.state(position=arm.poses[-1] - [0, 3, 0, 0, 0, 0], load=[0, -0.45, 0, 0, 0, 0]))
    assert sent.reaction == Reaction.GIVE_WAY
    assert sent.position[1] == AWAY[1] - 5


def test_nothing_gives_way_to_a_reading_that_is_old():
    arm = Arm()
    arm.run(AWAY, 60)
    old = arm.state(load=0.95, position=AWAY - [5, 0, 0, 0, 0, 0])
    for _ in range(60):
        assert arm.step(AWAY, old).reaction in (Reaction.FOLLOW, Reaction.HOLD)
    assert np.array_equal(arm.poses[-1], AWAY)


# --- slowly back to the command ---


def hold(arm, reason):
    """Hold an arm for a moment."""
    empty = PersonView(0.0, 1e9)
    if reason == "person":
        arm.run(REST, 20, person=PersonView(1.0, 1e9))
    elif reason == "silence":
        arm.run(None, 20, person=empty)
    elif reason == "no reading":
        arm.run(REST, 30, state=None, person=empty)
    elif reason == "heat":
        arm.run(REST, 5, state=arm.state(temperature=70, time=arm.now + 4 * TICK), person=empty)
    elif reason == "pause":
        arm.now += 1.0
    elif reason == "takeover":
        arm.layer.align()
    elif reason == "emergency stop":
        arm.layer.emergency_stop.press("test")
        arm.run(REST, 40, person=empty)
        arm.layer.resume(arm.now, arm.state())
        arm.run(None, 3, person=empty)


@pytest.mark.parametrize(
    "reason", ["person", "silence", "no reading", "heat", "pause", "takeover", "emergency stop"]
)  # fmt: skip
def test_after_a_hold_the_arm_comes_to_its_command_slowly(reason):
    arm = watched()
    arm.run(REST, 5, person=PersonView(0.0, 1e9))
    hold(arm, reason)
    since = len(arm.poses) - 1
    arm.run(AWAY, 75, person=PersonView(0.0, 1e9))
    assert np.array_equal(arm.poses[-1], AWAY)
    assert speeds(arm, since)[:30].max() == pytest.approx(0.25)
    assert arm.causes()["aligning"]["ticks"] > 20
    before = len(arm.poses) - 1
    arm.run(REST, 60, person=PersonView(0.0, 1e9))
    assert speeds(arm, before).max() == pytest.approx(1.0)  # it is aligned, and free


def test_the_speed_of_alignment_is_a_setting():
    arm = Arm(make_limits(align_speed=0.5))
    arm.layer.align()
    arm.run(AWAY, 60)
    assert speeds(arm, 0).max() == pytest.approx(0.5)


def test_a_short_hold_with_the_command_near_slows_nothing():
    free, held = Arm(), watched()

    def command(tick):
        return REST + np.array([20, -10, 10, -5, 20, 10]) * np.sin(0.06 * tick)

    for tick in range(120):
        person = PersonView(float(tick in (50, 51)), 1e9)
        free.step(command(tick))
        held.step(command(tick), person=person)
    assert {"person", "resuming"} <= set(held.causes())
    assert "aligning" not in held.causes()
    assert np.array_equal(held.poses[-1], free.poses[-1])


def test_a_command_that_moves_is_followed_at_the_speed_of_alignment_until_it_is_near():
    arm = Arm()
    arm.layer.align()
    goal = REST.copy()
    goal[0] = 30
    for _ in range(120):
        goal[0] = min(goal[0] + 0.5, 60)  # 15 degrees/s
        arm.step(goal)
    assert speeds(arm, 0)[:45].max() <= 0.25 + 1e-9
    assert arm.poses[-1][0] == 60


def test_an_arm_without_a_model_is_one_line(caplog):
    SafetyLayer(make_limits())
    assert [record.message for record in caplog.records] == [
        "safety.model is null: nothing keeps the arm from the table, the walls and itself"
    ]
    caplog.clear()
    SafetyLayer(make_limits("so101")).start(0.0, ArmState.of(REST, 0.0))
    assert caplog.records == []
