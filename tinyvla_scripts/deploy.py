"""Run a policy on an arm, or on its twin: python deploy.py checkpoint=outputs/<run> robot=twin env.tasks=[reach]."""

import contextlib
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from configs.app import app
from configs.composing import as_dict, decode, named_settings
from tinyvla.errors import UserError
from tinyvla.files import alone_in, write_whole


@app("deploy")
def main(cfg: DictConfig) -> None:
    from envs import decode_env
    from envs.feature_names import trained_feature_names
    from envs.report.deployment_page import write_deployment_report
    from envs.so101.twin import TwinScene, twin_episodes
    from policies import RunnerConfig
    from robot_io.arms import make_arm, needs_twin, with_twin_cameras
    from robot_io.deployment import Deployment, Judge, Printer, ServerAccess, limits_at_rate, load_arm_runner
    from robot_io.deployment.episodes import real_episodes
    from robot_io.deployment.start_poses import begin_at
    from robot_io.person_gate import PersonGateSettings, connect_person_gate
    from robot_io.recording.folder import record_run
    from robot_io.run_observers import open_observers
    from robot_io.safety import SafetyLayer
    from robot_io.takeover import connect_operator, decode_takeover
    from robot_io.terminal import has_terminal
    from robot_io.twin import TwinSettings, start_twin

    run_dir, robot = Path(cfg.run_dir), as_dict(cfg.robot)
    if (run_dir / "config.yaml").exists():
        raise UserError(f"{run_dir} already holds a run; choose another run_dir")
    runner = load_arm_runner(cfg.checkpoint, cfg.device, decode(RunnerConfig, cfg.runner), ServerAccess.read(cfg))
    layer = SafetyLayer(limits_at_rate(as_dict(cfg.safety), runner.fps, "safety.rate_hz" in named_settings(cfg)))
    with alone_in(run_dir, wait=False), contextlib.ExitStack() as stack:
        enter = stack.enter_context
        if needs_twin(robot):
            robot = with_twin_cameras(robot, runner.recorded_cameras)
            twin = enter(start_twin(TwinSettings.from_config(robot, cfg.seed, TwinScene)))
            episodes = twin_episodes(decode_env(as_dict(cfg.env)), cfg.episodes, cfg.seed, layer.limits.rate_hz, twin)
        else:
            twin, episodes = None, real_episodes(cfg.instruction, cfg.episodes, cfg.seconds, None, cfg.seed)
        episodes = begin_at(cfg.start_pose, episodes, layer.limits)
        arm, names = make_arm(robot, twin), runner.value_names if cfg.server else trained_feature_names(cfg.checkpoint)
        takeover, gate = decode_takeover(as_dict(cfg.takeover)), decode(PersonGateSettings, cfg.person_gate)
        judge = Judge(cfg.judge and twin is None and has_terminal(), ends_episodes=takeover != "keyboard")
        operator = enter(connect_operator(takeover, layer.joints, layer.emergency_stop, judge.keys()))
        camera, printer = next(iter(runner.cameras)), Printer(layer.joints, cfg.dry_run)
        person = enter(connect_person_gate(gate, cfg.person_detector, camera, layer.limits, twin is not None))
        run = Deployment(arm, runner, layer, [printer], operator, cfg.approach_speed, cfg.dry_run, names, person, judge)
        recorder = record_run(run_dir / "recording", arm, runner.cameras, layer) if cfg.record else None
        run.observers += enter(open_observers(layer, runner.cameras, recorder, cfg.display, cfg.live_page))
        write_whole(run_dir / "config.yaml", OmegaConf.to_yaml(cfg))
        run.run(episodes, run_dir)
    print(run.describe(), write_deployment_report(run_dir, cfg.videos), sep="\n")
    if recorder is not None:
        recorder.check()
