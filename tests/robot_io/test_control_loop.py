"""The control loop: on time, and the arm at rest however it ends. Time is made up, so nothing here waits."""

from types import SimpleNamespace

import numpy as np
import pytest
from lerobot.motors.feetech.tables import MODEL_CONTROL_TABLE
from safety_arm import REST, TICK, make_limits

from robot_io.control_loop import ControlLoop, Timing
from robot_io.feetech import FeetechServos
from robot_io.safety import SafetyLayer
from tinyvla.errors import UserError

AWAY = REST + np.array([40, 20, -20, -20, 60, 50])
JOINTS = list(make_limits().joints)


class FakeArm:
    """Goes where it is sent, with a clock that sleeping moves; may fail at reads or sends that are listed."""

    def __init__(self, limits=None):
        self.layer = SafetyLayer(limits or make_limits())
        self.now, self.position = 50.0, REST.copy()
        self.sent, self.torques, self.reads, self.unreadable, self.unplugged = [], [], 0, set(), False

    def clock(self):
        return self.now

    def sleep(self, seconds):
        assert 0 < seconds <= TICK + 1e-9
        self.now += seconds

    def get_observation(self):
        self.reads += 1
        if self.unplugged or self.reads in self.unreadable:
            raise ConnectionError("no answer")
        return {f"{joint}.pos": value for joint, value in zip(JOINTS, self.position, strict=True)}

    def send_action(self, action):
        if self.unplugged:
            raise ConnectionError("no answer")
        assert list(action) == [f"{joint}.pos" for joint in JOINTS]
        self.position = np.array(list(action.values()))
        self.sent.append(self.position)
        return action

    def set_torque(self, share):
        self.torques.append(share)

    def read_servos(self):
        return self.servos() if self.servos is not None else None

    def heartbeat(self):
        pass

    def loop(self, policy, servos=None, **kwargs):
        self.servos = servos
        return ControlLoop(self, policy, self.layer, clock=self.clock, sleep=self.sleep, **kwargs)

    def at_rest(self):
        """True if it stands still, and came to that within its limits of acceleration."""
        acceleration = np.abs(np.diff(self.sent, n=2, axis=0)).max() / TICK**2
        return np.array_equal(self.sent[-1], self.sent[-2]) and acceleration <= 1800.001


def test_it_follows_a_policy_on_time():
    arm, ticks = FakeArm(), []
    loop = arm.loop(lambda observation: AWAY, observer=lambda *tick: ticks.append(tick))
    assert loop.run(3.0) == "time"
    assert np.array_equal(arm.position, AWAY)
    assert len(ticks) == 90
    assert np.allclose(np.diff([due for due, *_ in ticks]), TICK)
    assert loop.timing.to_dict() | {"worst_ms": 0} == {
        "ticks": 90, "late": 0, "missed": 0, "p50_ms": 0.0, "p99_ms": 0.0, "worst_ms": 0,
    }  # fmt: skip
    assert arm.torques == []
    assert arm.layer.report.to_dict()["causes"].keys() == {"speed", "acceleration", "jerk"}


def test_an_end_in_motion_is_smooth_and_keeps_the_torque():
    arm = FakeArm()
    assert arm.loop(lambda observation: AWAY).run(0.3) == "time"
    assert arm.at_rest()
    assert arm.torques == []
    arm.loop(lambda observation: REST).run(3.0)  # a second run goes on from there
    assert np.array_equal(arm.position, REST)


def test_no_time_at_all_moves_nothing():
    arm = FakeArm()
    arm.loop(lambda observation: AWAY).run(0.0)
    assert all(np.array_equal(pose, REST) for pose in arm.sent)


@pytest.mark.parametrize("error", [RuntimeError("policy"), KeyboardInterrupt()])
def test_an_error_stops_the_arm_and_cuts_its_torque(error):
    arm = FakeArm()

    def policy(observation):
        if arm.reads > 8:
            raise error
        return AWAY

    with pytest.raises(type(error)):
        arm.loop(policy).run()
    assert arm.at_rest()
    assert arm.torques == [0.0]
    assert arm.layer.report.to_dict()["causes"]["emergency_stop"]["ticks"] > 0


def test_an_error_may_leave_the_arm_holding():
    arm = FakeArm(make_limits(emergency_stop={"torque_off_s": None}))
    with pytest.raises(ZeroDivisionError):
        arm.loop(lambda observation: 1 / 0).run()
    assert arm.torques == []


def test_the_emergency_stop_ends_a_run():
    arm = FakeArm()

    def policy(observation):
        if arm.reads == 8:
            arm.layer.emergency_stop.press("button")
        return AWAY

    assert arm.loop(policy).run() == "button"
    assert arm.at_rest()
    assert arm.torques == [0.0]
    assert arm.now < 50 + 8 * TICK + 1.5


def test_a_reading_that_fails_now_and_then_is_survived():
    arm = FakeArm()
    arm.unreadable = {5, 6, 20}
    assert arm.loop(lambda observation: AWAY).run(3.0) == "time"
    assert np.array_equal(arm.position, AWAY)


def test_an_unplugged_arm_ends_the_run_and_torque_is_cut_if_it_can_be():
    arm = FakeArm()

    def policy(observation):
        arm.unplugged = arm.reads > 8
        return AWAY

    with pytest.raises(ConnectionError, match="no answer"):
        arm.loop(policy).run()
    assert arm.torques == [0.0]


@pytest.mark.parametrize("lost", ["servos", "camera"])
def test_servos_that_no_longer_answer_are_let_go_at_once_but_not_for_a_camera(lost):
    arm = FakeArm()
    arm.unreadable = range(9, 1000)

    def servos():
        if lost == "servos" and arm.reads > 8:
            raise ConnectionError("no answer")
        return np.zeros((2, len(JOINTS)))

    def set_torque(share):
        arm.torques.append((share, arm.now))

    arm.set_torque = set_torque
    with pytest.raises(ConnectionError, match="no answer"):
        arm.loop(lambda observation: AWAY, servos=servos).run()
    ((share, when),) = arm.torques
    assert share == 0
    last_read = 50 + 7 * TICK
    assert (when - last_read < 0.55) == (lost == "servos")
    assert (when - last_read > 1.4) == (lost == "camera")


def test_reads_that_take_long_to_fail_do_not_put_the_end_off():
    arm = FakeArm()

    def slow():
        arm.reads += 1
        if arm.reads > 8:
            arm.now += 0.1
            raise ConnectionError("no answer")
        return {f"{joint}.pos": value for joint, value in zip(JOINTS, arm.position, strict=True)}

    arm.get_observation = slow
    with pytest.raises(ConnectionError):
        arm.loop(lambda observation: AWAY).run()
    assert arm.now - (50 + 7 * TICK) < 2.1  # with 1.1 s of braking and holding; 14 ticks alone would take 1.4 s


def test_an_arm_that_cannot_be_read_is_not_moved():
    arm = FakeArm()
    arm.unplugged = True
    with pytest.raises(ConnectionError, match="not moved"):
        arm.loop(lambda observation: AWAY).run()
    assert arm.sent == []


def test_ticks_that_were_slept_through_are_counted_and_not_made_up_for():
    arm = FakeArm()

    def policy(observation):
        arm.now += 3.5 * TICK if arm.reads == 10 else 0.2 * TICK
        return AWAY

    loop = arm.loop(policy)
    loop.run(1.0)
    assert (loop.timing.missed, loop.timing.late) == (2, 1)
    assert loop.timing.ticks == 28
    assert arm.layer.report.to_dict()["causes"]["late_tick"]["ticks"] == 1


def test_percentiles_of_delays():
    timing = Timing(late_s=0.003)
    for tick in range(1000):
        timing.add(0.02 if tick % 50 == 0 else 0.00015)
    counts = timing.to_dict()
    assert counts == {"ticks": 1000, "late": 20, "missed": 0, "p50_ms": 0.2, "p99_ms": 20.0, "worst_ms": 20.0}


class FakeBus:
    """The calls of LeRobot's Feetech bus that are made."""

    def __init__(self):
        self.motors = dict.fromkeys(JOINTS, SimpleNamespace(model="sts3215"))
        self.model_ctrl_table, self.port_handler = MODEL_CONTROL_TABLE, None
        self.packet_handler = SimpleNamespace(write1ByteTxOnly=self.shout)
        self.written, self.reads, self.limp = [], [], set()
        self.grip = -250  # load of the gripper

    def sync_read(self, register, normalize):
        assert not normalize
        self.reads.append(register)
        known = {"Max_Torque_Limit": 1000, "Present_Load": -250, "Present_Temperature": 31, "Torque_Enable": 1}
        known |= {"Overload_Torque": 80, "Protection_Time": 200}
        gripper = {"Max_Torque_Limit": 500, "Present_Load": self.grip, "Overload_Torque": 25}
        value = known[register]
        if register == "Torque_Enable":
            return {joint: int(joint not in self.limp) for joint in JOINTS}
        return dict.fromkeys(JOINTS, value) | {"gripper": gripper.get(register, value)}

    def sync_write(self, register, values, normalize):
        assert not normalize
        self.written.append((register, values["elbow_flex"], values["gripper"]))

    def shout(self, port, servo, address, value):
        if self.written[-1:] != [call := (servo, address, value)]:  # it is said many times
            self.written.append(call)

    def write(self, register, motor, value, normalize, num_retry):
        assert not normalize
        self.written.append((register, motor, value))

    def enable_torque(self, num_retry):
        self.written.append("on")


def test_feetech_servos_are_read_and_limited():
    bus = FakeBus()
    servos = FeetechServos(bus, every=3)
    for _ in range(4):
        loads, temperatures = servos.read()
    assert loads.tolist() == [-0.25] * 5 + [-0.5]  # of the half that LeRobot lets the gripper use
    assert temperatures.tolist() == [31] * 6
    assert bus.reads.count("Present_Temperature") == 2
    for share in (0.5, 0.0, 1.0):
        servos.set_torque(share)
    per_servo = [("Torque_Enable", joint, 0) for joint in JOINTS]
    assert bus.written == [("Torque_Limit", 500, 250), (0xFE, 40, 0), *per_servo, ("Torque_Limit", 1000, 500), "on"]


def test_a_gripper_that_holds_something_is_eased_before_it_counts_as_overloaded(monkeypatch):
    bus, now = FakeBus(), [0.0]
    monkeypatch.setattr("robot_io.feetech.servos.time", SimpleNamespace(monotonic=lambda: now[0]))
    servos = FeetechServos(bus)

    def read_for(seconds, grip):
        bus.grip = grip
        for _ in range(round(seconds / TICK)):
            servos.read()
            now[0] += TICK

    read_for(0.9, -500)
    read_for(0.1, -200)  # it may push for a moment, again and again
    read_for(0.9, -500)
    assert bus.written == []
    read_for(0.2, -500)
    assert bus.written == [("Torque_Limit", 1000, 240)]
    read_for(3.0, -240)  # it goes on holding
    servos.set_torque(0.5)
    assert bus.written[1:] == [("Torque_Limit", 500, 240)]
    servos.set_torque(1.0)
    read_for(0.1, 100)  # and opens
    assert bus.written[2:] == [("Torque_Limit", 1000, 240), ("Torque_Limit", 1000, 500)]


def test_one_reading_without_torque_is_no_verdict(monkeypatch):
    bus = FakeBus()
    servos, sync_read = FeetechServos(bus), bus.sync_read

    def shifted_once(register, normalize):
        values = sync_read(register, normalize)
        bus.limp = set()
        return values

    monkeypatch.setattr(bus, "sync_read", shifted_once)
    bus.limp = {"elbow_flex"}
    servos.read()
    assert bus.reads.count("Torque_Enable") == 2


def test_a_servo_that_has_started_anew_is_noticed(monkeypatch):
    bus, now = FakeBus(), [0.0]
    monkeypatch.setattr("robot_io.feetech.servos.time", SimpleNamespace(monotonic=lambda: now[0]))
    servos = FeetechServos(bus, every=100)
    servos.read()
    bus.limp = {"elbow_flex"}
    now[0] += 0.03
    servos.read()  # looked at now and then,
    now[0] += 0.5  # and after a gap
    for _ in range(2):
        with pytest.raises(UserError, match="the torque of elbow_flex went off by itself"):
            servos.read()
    servos.set_torque(0.0)
    servos.read()  # as it should be
