"""Record demonstrations with a leader arm: python record.py robot.port=... teleop.port=... dataset=<folder>."""

import contextlib
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from configs.app import app
from configs.common import check_output_folder
from configs.composing import as_dict, decode
from tinyvla.files import alone_in, write_whole


@app("record")
def main(cfg: DictConfig) -> None:
    from envs.seeds import episode_seed
    from robot_io.arms import make_arm, needs_twin
    from robot_io.person_gate import PersonGateSettings, connect_person_gate
    from robot_io.recording import Recorder
    from robot_io.recording.folder import check_rates, image_sizes, prepare_folder
    from robot_io.run_observers import open_observers
    from robot_io.safety import SafetyLayer, SafetyLimits
    from robot_io.teleoperation import Announcer, RecordingSession, Teleoperation, connect_leader, decode_teleop
    from robot_io.teleoperation.session import KEYS, demonstrations
    from robot_io.twin import TwinSettings, start_twin

    run_dir, root, robot = Path(cfg.run_dir), Path(cfg.dataset), as_dict(cfg.robot)
    check_output_folder(cfg.dataset, "dataset")
    layer = SafetyLayer(SafetyLimits.decode(as_dict(cfg.safety)))
    rate_hz, teleop = layer.limits.rate_hz, decode_teleop(as_dict(cfg.teleop))
    check_rates(robot["cameras"] or {}, rate_hz)
    done = prepare_folder(root, cfg.episodes, cfg.resume)
    with alone_in(run_dir, wait=False), contextlib.ExitStack() as stack:
        twin = None
        if needs_twin(robot):
            twin = stack.enter_context(start_twin(TwinSettings.from_config(robot, cfg.seed)))
        seeds = [episode_seed("train", cfg.seed, number) for number in range(cfg.episodes)]
        make_episode = demonstrations(cfg.instruction, cfg.seconds, seeds, twin)
        arm, gate = make_arm(robot, twin), decode(PersonGateSettings, cfg.person_gate)
        sizes = image_sizes(arm)
        person = stack.enter_context(
            connect_person_gate(gate, cfg.person_detector, next(iter(sizes), ""), layer.limits, twin is not None)
        )
        announcer = stack.enter_context(Announcer(cfg.cue))
        recorder = Recorder(
            *(root, layer.joints, sizes, rate_hz, arm.name),
            of_policy=False,
            resume=done > 0,
            fix="choose another dataset=<folder>",
            complain=announcer.say,
        )
        observers = stack.enter_context(open_observers(layer, sizes, recorder, cfg.display, cfg.live_page))
        session = RecordingSession(make_episode, cfg.episodes, recorder, announcer, cfg.reset_s, done)
        leader = stack.enter_context(connect_leader(teleop, layer.joints, layer.emergency_stop, session.keys()))
        run = Teleoperation(arm, leader, layer, session, observers, cfg.approach_speed, person)
        write_whole(run_dir / "config.yaml", OmegaConf.to_yaml(cfg))
        announcer.say(KEYS)
        run.run(run_dir)
    print(run.describe())
    recorder.check()
