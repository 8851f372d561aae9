"""People who take over: what their pose is, and which keys do what."""

from types import SimpleNamespace

import numpy as np
import pytest
from fake_arm import FOLDED, JOINTS
from lerobot.teleoperators.utils import TeleopEvents

from robot_io.feetech.bus import FeetechBus
from robot_io.safety import EmergencyStop
from robot_io.takeover import GamepadOperator, KeyboardOperator, LeaderOperator, connect_operator, decode_takeover
from robot_io.takeover.gamepad import HandKinematics
from robot_io.terminal import KeyListener
from tinyvla.errors import UserError

NAMES = [f"{joint}.pos" for joint in JOINTS]
SEEN = dict(zip(NAMES, FOLDED, strict=True))


def test_the_line_of_a_leader_is_protected_as_the_arms(monkeypatch):
    leaders = []
    monkeypatch.setattr("robot_io.takeover.operators._connect_leader", leaders.append)
    monkeypatch.setattr("lerobot.teleoperators.so_leader.SO101Leader.disconnect", lambda _: None)
    section = {"type": "so101_leader", "port": "/dev/nowhere", "id": "x"}
    with connect_operator(decode_takeover(section), JOINTS, EmergencyStop()):
        assert isinstance(leaders[0].bus, FeetechBus)


def test_a_leader_is_followed_while_it_has_taken_over():
    held = dict.fromkeys(NAMES, 5.0)
    person = LeaderOperator(
        SimpleNamespace(name="so_leader", action_features=held, get_action=lambda: dict(held)), JOINTS
    )
    keys = KeyListener(person.keys())
    assert person(SEEN) is None
    keys.press("t")
    assert person(SEEN).tolist() == [5.0] * 6
    keys.press("t")
    keys.press("?")
    assert person(SEEN) is None


def test_a_leader_that_misses_a_packet_is_waited_for_and_one_that_is_gone_is_one_line(monkeypatch):
    answers = iter([5.0, ConnectionError("no status packet"), 7.0, *[ConnectionError("no status packet")] * 2])

    def get_action():
        if isinstance(answer := next(answers), Exception):
            raise answer
        return dict.fromkeys(NAMES, answer)

    leader = SimpleNamespace(name="so_leader", action_features=dict.fromkeys(NAMES, float), get_action=get_action)
    person = LeaderOperator(leader, JOINTS)
    person.active = True
    assert [person(SEEN)[0] for _ in range(4)] == [5.0, 5.0, 7.0, 7.0]
    monkeypatch.setattr("robot_io.takeover.operators._HOLD_S", -1.0)
    with pytest.raises(UserError, match="the leader arm failed: no status packet; check its cable and power"):
        person(SEEN)


def test_a_leader_in_other_units_is_refused():
    from lerobot.teleoperators.so_leader import SOLeader, SOLeaderTeleopConfig

    LeaderOperator(SOLeader(SOLeaderTeleopConfig(port="/dev/none")), JOINTS)
    with pytest.raises(UserError, match="gives -100 to 100 for a joint and the arm is steered in degrees"):
        LeaderOperator(SOLeader(SOLeaderTeleopConfig(port="/dev/none", use_degrees=False)), JOINTS)


def test_the_keyboard_turns_joints_from_where_the_arm_is():
    person = KeyboardOperator(JOINTS)
    keys = KeyListener(person.keys())
    assert person(SEEN) is None
    for key in "qqs":
        keys.press(key)
    moved = person(SEEN | {"gripper.pos": 50.0})
    assert (moved - FOLDED).tolist() == [4, -2, 0, 0, 0, 45]
    keys.press("j")
    assert person(SEEN)[5] == 48  # counted from where it took over
    keys.press("t")
    assert person(SEEN) is None
    keys.press("t")
    assert person(SEEN).tolist() == list(FOLDED)


class Pad:
    """A gamepad as LeRobot hands it out."""

    held, stick, gripper = False, (0.0, 0.0, 0.0), 1

    def get_teleop_events(self):
        return {TeleopEvents.IS_INTERVENTION: self.held}

    def get_action(self):
        return dict(zip(("delta_x", "delta_y", "delta_z"), self.stick, strict=True)) | {"gripper": self.gripper}


def test_a_gamepad_moves_the_hand_while_its_button_is_held():
    pad, now, hand = Pad(), [0.0], HandKinematics(JOINTS)
    person = GamepadOperator(pad, JOINTS, clock=lambda: now[0])
    start = np.array((10.0, -40.0, 40.0, 50.0, 5.0, 20.0))
    observation = dict(zip(NAMES, start, strict=True))

    def hold(stick, seconds=0.5, gripper=1):
        pad.stick, pad.gripper = stick, gripper
        for _ in range(round(seconds * 30)):
            now[0] += 1 / 30
            pose = person(observation)
        return pose

    assert hold((1.0, 0, 0)) is None
    pad.held = True
    assert person(observation).tolist() == start.tolist()
    for stick in ((1.0, 0, 0), (0, 1.0, 0), (0, 0, 1.0), (-1.0, -1.0, -1.0)):
        before = person(observation)
        pose = hold(stick)
        assert hand.at(pose) - hand.at(before) == pytest.approx(0.06 * np.array(stick), abs=0.015)
        assert pose[[1, 2, 3]].sum() == pytest.approx(start[[1, 2, 3]].sum(), abs=10)  # the hand's tilt
        assert (pose[4], pose[5]) == (5, 20)
    assert hold((0, 0, 0), gripper=2)[5] > 50
    assert hold((0, 0, 0), 3.0, gripper=0)[5] == 0
    far = hold((1.0, 0, 0), 20.0)  # further than the arm reaches
    assert np.isfinite(far).all()
    pad.held = False
    assert person(observation) is None
    pad.held = True
    assert person(observation).tolist() == start.tolist()


def test_a_gamepad_that_is_not_there(monkeypatch):
    stop = EmergencyStop()
    with (
        pytest.raises(UserError, match=r"needs pygame; install it: uv sync --extra gamepad|there is no gamepad"),
        connect_operator("gamepad", JOINTS, stop),
    ):
        pass
    with pytest.raises(UserError, match="knows only the SO-101's geometry"):
        GamepadOperator(Pad(), JOINTS[:5])


def test_mistakes():
    stop = EmergencyStop()
    with connect_operator(decode_takeover({"type": None}), JOINTS, stop) as person:
        assert person is None
    with connect_operator(decode_takeover({"type": "keyboard"}), JOINTS, stop) as person:
        assert isinstance(person, KeyboardOperator)
    with pytest.raises(UserError, match="did you mean so101_leader"):
        decode_takeover({"type": "so101_leadr"})
    with pytest.raises(UserError, match=r"takeover\.port is not given"):
        decode_takeover({"type": "so101_leader", "port": None})
    with pytest.raises(UserError, match=r"fix takeover\.\*"):
        decode_takeover({"type": "so101_leader", "port": "x", "speed": 3})
    with (
        pytest.raises(UserError, match="the leader arm does not connect"),
        connect_operator(decode_takeover({"type": "so101_leader", "port": "/dev/no-such"}), JOINTS, stop),
    ):
        pass
    with pytest.raises(UserError, match="for up to 6 joints"):
        KeyboardOperator(["joint"] * 7)
    with pytest.raises(UserError, match="use the leader of this arm"):
        LeaderOperator(SimpleNamespace(name="phone", action_features={"x": float}), JOINTS)


def test_the_live_view_shows_ticks(tmp_path):
    from robot_io.live_view import LiveView

    file = tmp_path / "view.rrd"
    pose = np.zeros(6)
    with LiveView(JOINTS, file) as view:
        observation = SEEN | {"front": np.zeros((16, 16, 3), np.uint8)}
        view.observe(SimpleNamespace(due=1.0, observation=observation, sent=pose, policy_pose=pose, intervention=False))
    assert file.stat().st_size > 1000
    assert view.report() == {"display": {"left_out": 0}}
