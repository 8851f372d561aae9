"""Recording by a leader: episodes that are kept, repeated and discarded, and what ends a session."""

import io
import json
import os
import signal
import time
from types import SimpleNamespace

import numpy as np
import pytest
from fake_arm import FOLDED, JOINTS, FakeArm

from configs.composing import as_dict, load_config
from robot_io.deployment import Judge
from robot_io.recording import Recorder
from robot_io.recording.folder import check_rates, image_sizes, prepare_folder
from robot_io.safety import SafetyLayer, SafetyLimits
from robot_io.teleoperation import Announcer, RecordingSession, Teleoperation, decode_teleop
from robot_io.teleoperation.session import demonstrations
from robot_io.terminal import KeyListener, split_keys
from tinyvla.errors import UserError

REST = (0.0, -90.0, 85.0, 60.0, 3.0, 10.0)


@pytest.fixture
def layer():
    """An SO-101's limits without its geometry, which is tested elsewhere."""
    cfg = as_dict(load_config("deploy", ["checkpoint=none"]).safety)
    return SafetyLayer(SafetyLimits.decode(cfg | {"model": None}))


class Log:
    """Recorder without a disk. `at_tick` is called with the number of the tick in its episode."""

    def __init__(self, at_tick=lambda tick: None):
        self.error, self.ends, self.events, self.at_tick = None, [], [], at_tick
        self.ticks = []

    def begin(self, episode):
        self.events.append("begin")
        self.ticks = []

    def observe(self, tick):
        self.ticks.append(tick)
        self.at_tick(len(self.ticks))

    def complete(self):
        self.events.append("complete")

    def end(self, result):
        self.events.append("end")
        self.ends.append(result)

    def report(self):
        return {"recording": {"folder": "demos", "episodes": 0, "frames": 0, "lost": 0}}


def teleoperation(layer, log, leader=lambda observation: np.array(REST), count=2, seconds=0.3, reset_s=0.0, **options):
    out = io.StringIO()
    announcer = Announcer(stream=out)
    make = options.pop("make", None) or demonstrations("pick up the cube", seconds, list(range(count)))
    session = RecordingSession(make, count, log, announcer, reset_s)
    arm = FakeArm()
    return Teleoperation(arm, leader, layer, session, [log], approach_speed=1.0, **options), session, announcer, out


def test_episodes_are_counted_and_kept(layer, tmp_path):
    log = Log()
    run, _, announcer, out = teleoperation(layer, log)
    report = run.run(tmp_path)
    announcer.close()
    assert [(end["kept"], end["success"], end["ended"]) for end in log.ends] == [(True, None, "time")] * 2
    assert log.events == ["begin", "complete", "end"] * 2
    assert report == json.loads((tmp_path / "record.json").read_text())
    assert (report["kept"], report["timing"]["ticks"]) == (2, 18)
    assert "episode 1 of 2: pick up the cube" in out.getvalue()
    assert "episode 2 of 2: keep, 0.3 s" in out.getvalue()
    assert log.ticks[-1].sent == pytest.approx(REST, abs=0.5)
    assert list(run.robot.pose.values()) == pytest.approx(np.clip(FOLDED, *ends(layer)), abs=0.5)  # brought back
    assert not run.robot.connected


def ends(layer):
    joints = layer.limits.joints.values()
    return [joint.min for joint in joints], [joint.max for joint in joints]


def test_keys_of_an_episode(layer, tmp_path):
    """r repeats the number, d skips it, right keeps; q throws the running one away and ends the session."""
    keys = iter(["r", "right", "d", "n", "q"])
    log = Log(at_tick=lambda tick: tick == 4 and listener.press(next(keys)))
    run, session, announcer, _ = teleoperation(layer, log, count=9, seconds=30)
    listener = KeyListener(session.keys())
    numbers = []
    log.begin = lambda episode: (numbers.append(episode.number), log.ticks.clear())
    run.run(tmp_path)
    announcer.close()
    assert numbers == [1, 1, 2, 3, 4]
    assert [end["kept"] for end in log.ends] == [False, True, False, True, False]
    assert {end["ended"] for end in log.ends} == {"person"}
    assert session.recorded == 2


def test_the_last_episode_can_be_rejected_while_the_scene_is_reset(layer, tmp_path):
    log = Log()
    run, session, announcer, out = teleoperation(layer, log, count=1, reset_s=30.0)
    presses = iter([session.again, session.next, session.next])
    pause_is_over = session.pause_is_over
    session.pause_is_over = lambda: (next(presses)(), pause_is_over())[1]
    run.run(tmp_path)
    announcer.close()
    assert [end["kept"] for end in log.ends] == [False, True]
    assert "reset the scene: 30 s" in out.getvalue()


def test_the_arm_follows_the_leader_slowly_to_the_start_and_then_as_the_limits_allow(layer, tmp_path):
    far = np.add(REST, (60, 0, 0, 0, 0, 0))
    log = Log()

    def leader(observation):
        # Moves on while the arm is on its way to it for the first time.
        return far if run.robot.sent else np.array(REST)

    run, _, announcer, _ = teleoperation(layer, log, leader, count=1)
    run._run.approach_speed = 0.25
    run.run(tmp_path)
    announcer.close()
    sent = np.array(run.robot.sent)
    steps = np.abs(np.diff(sent[:, 0])) * 30
    assert steps.max() < 0.5 * 120
    assert log.ticks[0].position == pytest.approx(far, abs=2)


def test_a_leader_without_a_pose_leaves_the_arm_where_it_is(layer, tmp_path):
    log = Log()
    run, _, announcer, _ = teleoperation(layer, log, lambda observation: None, count=1)
    run.run(tmp_path)
    announcer.close()
    sent = np.array([tick.sent for tick in log.ticks])
    assert np.ptp(sent, axis=0).max() < 1e-6


def test_an_episode_without_success_is_recorded_again(layer, tmp_path):
    log, outcomes = Log(), iter([False, True])
    make = demonstrations("go", 0.2, [7], twin=SimpleNamespace(reset=resets_of(log), state=lambda: log.state))
    run, _, announcer, _ = teleoperation(layer, log, count=1, make=make)
    log.state = {"success": False}
    log.end = lambda result: (log.ends.append(result), log.state.update(success=next(outcomes) is False))
    run.run(tmp_path)
    announcer.close()
    assert [(end["success"], end["kept"]) for end in log.ends] == [(False, False), (True, True)]
    assert log.events.count(("reset", 7, False)) == 2


def resets_of(log):
    return lambda seed, move_arm: log.events.append(("reset", seed, move_arm))


@pytest.mark.parametrize("source", ["SIGINT", "key"])
def test_a_stop_ends_the_session_and_the_running_episode_is_not_kept(source, layer, tmp_path):
    def stop(tick):
        if tick == 3 and log.ends:
            os.kill(os.getpid(), signal.SIGINT) if source == "SIGINT" else layer.emergency_stop.press("key")

    log = Log(at_tick=stop)
    run, _, announcer, _ = teleoperation(layer, log, count=5)
    report = run.run(tmp_path)
    announcer.close()
    assert (report["ended"], [end.get("kept") for end in log.ends]) == (source, [True, None])
    assert log.events == ["begin", "complete", "end", "begin", "end"]


def test_a_recording_that_fails_ends_the_session(layer, tmp_path):
    log = Log(at_tick=lambda tick: setattr(log, "error", "the disk is full") if tick == 3 else None)
    run, _, announcer, _ = teleoperation(layer, log, count=5, seconds=30)
    report = run.run(tmp_path)
    announcer.close()
    assert (len(report["episodes"]), report["kept"]) == (1, 0)


@pytest.mark.slow
def test_a_session_with_a_real_recorder_can_be_continued(layer, tmp_path):
    root = tmp_path / "demos"
    for count, resume in ((1, False), (2, True)):
        done = prepare_folder(root, count, resume)
        announcer = Announcer(stream=io.StringIO())
        with Recorder(
            root, JOINTS, {"front": (16, 16)}, 30, "so_follower", of_policy=False, resume=done > 0
        ) as recorder:
            session = RecordingSession(demonstrations("lift", 0.4, [0, 1]), count, recorder, announcer, 0.0, done)
            run = Teleoperation(FakeArm(), lambda _: np.array(REST), layer, session, [recorder], approach_speed=1.0)
            run.run(tmp_path)
        announcer.close()
        assert run.report["recording"]["episodes"] == count
        assert f"has {count} episodes" in run.describe()
    from policies.data import open_dataset

    dataset = open_dataset(root)
    assert (len(dataset), dataset.meta.total_episodes, dataset.fps) == (24, 2, 30)
    with pytest.raises(UserError, match="exists already; add episodes to it with resume=true"):
        prepare_folder(root, 2, False)
    with pytest.raises(UserError, match="has 2 episodes already; ask for more: episodes=12"):
        prepare_folder(root, 2, True)


def test_keys_that_are_more_than_a_character():
    assert split_keys("n\x1b[C\x1b[A q\x1b") == ["n", "right", "\x1b[A", " ", "q", "escape"]
    assert split_keys("\x1bOC\x1b[3~d") == ["right", "\x1b[3~", "d"]


def test_cues(tmp_path, monkeypatch):
    speaker = tmp_path / "espeak"
    speaker.write_text(f"#!/bin/sh\nsleep 0.1; echo $1 >> {tmp_path}/spoken\n")
    speaker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    out = io.StringIO()
    with Announcer("beep", out) as announcer:
        announcer.say("episode 1", "one")
        announcer.say("no cue")
    assert out.getvalue() == "episode 1\n\ano cue\n"
    with Announcer("speak", io.StringIO()) as announcer:
        announcer.say("episode 1", "one")
    announcer._speaking.wait()
    assert (tmp_path / "spoken").read_text() == "one\n"
    with pytest.raises(UserError, match="cue=shout does not exist"):
        Announcer("shout")
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    with pytest.raises(UserError, match="finds no program that speaks; install espeak-ng, or use cue=beep"):
        Announcer("speak")


def test_a_count_is_shown_on_a_terminal():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    out = Terminal()
    with Announcer(stream=out) as announcer:
        announcer.count("episode 7 of 30, 12.4 s")
        end = time.monotonic() + 20
        while "12.4 s" not in out.getvalue() and time.monotonic() < end:
            time.sleep(0.01)
        announcer.say("done")
    assert out.getvalue().endswith(f"\r{'done'.ljust(23)}\n")


def test_devices_that_cannot_steer_are_refused():
    with pytest.raises(UserError, match=r"teleop\.type is not given; .* teleop\.type=so101_leader"):
        decode_teleop({"type": None})
    with pytest.raises(UserError, match=r"teleop\.type=keyboard needs the keys"):
        decode_teleop({"type": "keyboard"})
    with pytest.raises(UserError, match=r"teleop\.port is not given; add teleop\.port="):
        decode_teleop({"type": "so101_leader", "port": None})


def test_cameras_that_are_slower_than_the_recording_are_refused():
    check_rates({"laptop": {"fps": 30}, "phone": {"fps": None}}, 30.0)
    with pytest.raises(UserError, match=r"phone gives 15 images per second and 30 are recorded; .*safety\.rate_hz=15"):
        check_rates({"phone": {"fps": 15}}, 30.0)
    with pytest.raises(UserError, match="use a whole number"):
        check_rates({}, 29.97)


def test_sizes_of_images_that_the_settings_do_not_say():
    arm = FakeArm(size=16, cameras=("laptop", "phone"))
    arm.observation_features["phone"] = (None, None, 3)
    camera = SimpleNamespace(connect=lambda: None, disconnect=lambda: None, read=lambda: np.zeros((48, 64, 3)))
    arm.cameras = {"phone": camera}
    assert image_sizes(arm) == {"laptop": (16, 16), "phone": (48, 64)}
    assert image_sizes(arm, ["laptop"]) == {"laptop": (16, 16)}


def test_a_judge_without_a_terminal_asks_nothing():
    judge, result = Judge(asks=False), {"success": None}
    judge.begin(None)
    assert judge.keys()["y"]() is False
    assert judge.complete(result) == 0
    judge.settle(result)
    assert result == {"success": None}
