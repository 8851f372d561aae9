"""A policy over the wire: the twin in its task's scene, from the command to the recording."""

import json
import re
import sys

import numpy as np
import pytest
from test_start_poses import write_recording
from tiny import write_so101_policy

from configs.composing import as_dict, load_config
from envs import decode_env
from envs.feature_names import trained_feature_names
from envs.so101.twin import TwinScene, twin_episodes
from robot_io.arms import make_arm, needs_twin, with_twin_cameras
from robot_io.deployment import Deployment, Episode, Printer, load_arm_runner
from robot_io.deployment.start_poses import begin_at
from robot_io.safety import SafetyLayer, SafetyLimits
from robot_io.twin import TwinSettings, start_twin
from tinyvla.errors import UserError


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_so101_policy(tmp_path_factory.mktemp("run"))


@pytest.fixture(autouse=True)
def _in_a_fresh_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_which_robots_need_a_twin():
    robots = [as_dict(load_config("deploy", ["checkpoint=x", f"robot={name}"]).robot) for name in ("twin", "so101")]
    assert [needs_twin(robot) for robot in robots] == [True, False]
    assert not needs_twin(robots[0] | {"port": "/dev/ttyACM0"})


@pytest.fixture(scope="module")
def wired(checkpoint):
    """A policy, limits, and a running twin in the scene of the tasks: (cfg, runner, layer, robot, twin)."""
    cfg = load_config("deploy", ["checkpoint=x", "env.tasks=[reach]", "env.max_steps=20"])
    runner, layer = load_arm_runner(checkpoint, "cpu"), SafetyLayer(SafetyLimits.decode(as_dict(cfg.safety)))
    robot = with_twin_cameras(as_dict(cfg.robot), runner.cameras)
    with start_twin(TwinSettings.from_config(robot, scene=TwinScene), in_thread=True) as twin:
        yield cfg, runner, layer, robot, twin
    runner.close()


def test_a_policy_plays_an_episode_over_the_wire(wired, tmp_path, patient):
    cfg, runner, layer, robot, twin = wired
    episodes = twin_episodes(decode_env(as_dict(cfg.env)), 1, 0, layer.limits.rate_hz, twin)
    run = Deployment(make_arm(robot, twin), runner, layer, approach_speed=0.8)
    before = twin.state()
    report = run.run(episodes, tmp_path)
    after = twin.state()
    (episode,) = report["episodes"]
    assert (episode["task"], episode["success"], report["ended"]) == ("reach", False, "time")
    assert 0 < report["timing"]["ticks"] == episode["ticks"] <= 20
    # It was brought to where the episode starts and back, and left without torque.
    assert {joint["torque"] for joint in after["joints"].values()} == {0}
    angles = [[state["joints"][joint]["angle"] for joint in layer.joints] for state in (before, after)]
    assert np.abs(np.subtract(*angles)).max() < 12


class FirstTick:
    """Observer that keeps the pose of an episode's first tick."""

    def __init__(self):
        self.poses = []

    def begin(self, episode):
        self.is_first = True

    def observe(self, tick):
        if self.is_first:
            self.poses.append(tick.position)
        self.is_first = False

    def end(self, result):
        pass

    def report(self):
        return {}


def test_an_episode_begins_where_a_recorded_one_does(wired, tmp_path, patient):
    cfg, runner, layer, robot, twin = wired
    poses = [[8.0, -48, 30, 85, 3, 45], [-8.0, -40, 25, 80, -3, 30]]
    recording = write_recording(tmp_path / "recording", poses)
    episodes = twin_episodes(decode_env(as_dict(cfg.env)), 2, 0, layer.limits.rate_hz, twin)
    first = FirstTick()
    run = Deployment(make_arm(robot, twin), runner, layer, [first], approach_speed=0.8)
    report = run.run(begin_at(recording, episodes, layer.limits), tmp_path)
    assert [episode["seed"] for episode in report["episodes"]] == [episode.seed for episode in episodes]
    np.testing.assert_allclose(first.poses, poses, atol=5)


def test_a_dry_run_leaves_the_arm_limp_where_it_is(wired, tmp_path, patient, capsys):
    _, runner, layer, robot, twin = wired
    run = Deployment(make_arm(robot, twin), runner, layer, [Printer(layer.joints, poses=True)], dry_run=True)
    before = twin.state()
    report = run.run([Episode("reach", 0.5, (0.0, -48.0, 30.0, 85.0, 3.0, 45.0))], tmp_path)
    after = twin.state()
    assert "would send shoulder_pan" in capsys.readouterr().out
    assert report["episodes"][0]["ended"] == "time"
    assert {joint["torque"] for joint in after["joints"].values()} == {0}
    angles = [[state["joints"][joint]["angle"] for joint in layer.joints] for state in (before, after)]
    assert np.abs(np.subtract(*angles)).max() < 5  # it may sag, no more


def test_torque_limits_are_lifted_only_when_torque_is_off(wired, tmp_path, patient, monkeypatch):
    _, runner, layer, robot, twin = wired
    arm, torques = make_arm(robot, twin), []
    write = arm.bus.sync_write

    def watched(register, *args, **kwargs):
        if register == "Torque_Limit":
            torques.append({joint["torque"] for joint in twin.state()["joints"].values()})
        write(register, *args, **kwargs)

    monkeypatch.setattr(arm.bus, "sync_write", watched)
    run = Deployment(arm, runner, layer)
    run.run([Episode("reach", 0.2, (0.0, -48.0, 30.0, 85.0, 3.0, 45.0))], tmp_path)
    assert 0 not in torques[0]  # at the start, what an earlier run has left
    assert torques[-1] == {0}


def test_a_system_that_does_not_tell_its_cores_to_a_process(checkpoint, monkeypatch):
    """macOS has no affinities."""
    monkeypatch.delattr("os.sched_getaffinity")
    load_arm_runner(checkpoint, "cpu").close()


class Puller:
    """Pulls the USB cable in the middle of an episode."""

    def __init__(self, twin):
        self.twin, self.ticks = twin, 0

    def begin(self, episode):
        pass

    def observe(self, tick):
        self.ticks += 1
        if self.ticks == 5:
            self.twin.send("unplug")

    def end(self, result):
        self.result = result

    def report(self):
        return {}


def resting(runner, pose):
    """The runner's prediction with the pose in place of every action: random weights may collide, which is a line."""
    predict = runner._predict

    def rest(*arguments):
        chunk = predict(*arguments)
        return chunk._replace(actions=np.tile(np.float32(pose), (len(chunk.actions), 1)))

    return rest


def test_a_cable_that_is_pulled_is_one_line_and_a_report(wired, tmp_path, patient, caplog, monkeypatch):
    _, runner, layer, robot, twin = wired
    puller = Puller(twin)
    run = Deployment(make_arm(robot, twin), runner, layer, [puller], approach_speed=0.8)
    pose = (0.0, -80.0, 70.0, 60.0, 0.0, 10.0)
    monkeypatch.setattr(runner, "_predict", resting(runner, pose))
    with pytest.raises(
        UserError, match=r"put the USB cable back.*shoulder_pan, .* gripper did not.*cut the arm's power"
    ):
        run.run([Episode("reach", 30, pose)], tmp_path)
    lines = [record.getMessage() for record in caplog.records if record.levelname in ("WARNING", "ERROR")]
    assert [line for line in lines if not re.match("the arm starts outside|safety: emergency_stop", line)] == []
    report = json.loads((tmp_path / "deploy.json").read_text())
    assert (report["ended"], puller.result["ended"]) == ("UserError", "error")
    assert report["problems"]  # the servos could not be asked to let go
    twin.send("clear")


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["checkpoint=nowhere"], "no policy checkpoint at nowhere"),
        (["robot=so101"], "instruction is not given"),
        (["robot=so101", "instruction=go"], "robot.port is not given"),
        (
            ["robot=so101", "robot.port=/dev/no-such", "instruction=go", "record=false"],
            "needs the cameras front, wrist",
        ),
        (["env.tasks=[reech]"], "unknown SO-101 task"),
        (["safety.joints.gripper.max=-5"], "is not below max"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(arguments, what, checkpoint, tmp_path, capsys, monkeypatch):
    import deploy

    monkeypatch.setattr("robot_io.twin.client._process", fake_process)
    checkpoint_argument = [] if arguments[0].startswith("checkpoint") else [f"checkpoint={checkpoint}"]
    monkeypatch.setattr(sys, "argv", ["deploy.py", "device=cpu", *checkpoint_argument, *arguments])
    with pytest.raises(SystemExit) as leaving:
        deploy.main()
    lines = capsys.readouterr().err.splitlines()
    assert (leaving.value.code, len(lines)) == (2, 1), lines
    assert what in lines[0]
    assert not (tmp_path / "outputs").exists()


def fake_process(settings, folder):
    """A twin that is never asked for anything."""
    import contextlib

    return contextlib.nullcontext()


def test_joint_names_of_a_run(tmp_path, checkpoint):
    assert trained_feature_names(checkpoint) == {}
    run = tmp_path / "run"
    folder = run / "checkpoints/000001/pretrained_model"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (run / "checkpoints/last").symlink_to("000001")
    (run / "config.yaml").write_text("env: {name: so101}")
    assert trained_feature_names(run)["action"][0] == "shoulder_pan.pos"
    data = tmp_path / "data/meta"
    data.mkdir(parents=True)
    (data / "info.json").write_text(json.dumps({"features": {"action": {"names": ["a", "b"]}}}))
    (run / "config.yaml").write_text(f"dataset: {{root: {tmp_path / 'data'}}}\nenv: {{name: so101}}")
    assert trained_feature_names(run) == {"action": ["a", "b"]}


@pytest.mark.slow
def test_the_command_as_a_user_types_it(checkpoint, tmp_path, patient, capsys, monkeypatch):
    import deploy
    from policies.data import open_dataset

    arguments = ["device=cpu", "env.tasks=[reach]", "env.max_steps=60", f"run_dir={tmp_path / 'run'}"]
    monkeypatch.setattr(sys, "argv", ["deploy.py", f"checkpoint={checkpoint}", "approach_speed=0.6", *arguments])
    deploy.main()
    report = json.loads((tmp_path / "run/deploy.json").read_text())
    assert 20 < report["recording"]["frames"] <= report["timing"]["ticks"]
    assert len(open_dataset(tmp_path / "run/recording")) == report["recording"]["frames"]
    assert "of 1 episodes succeeded" in capsys.readouterr().out
