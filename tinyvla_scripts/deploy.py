"""Run a policy on an arm, or on its twin: python deploy.py checkpoint=outputs/<run> robot=twin env.tasks=[reach]."""

import contextlib
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from configs.app import app
from configs.composing import as_dict
from tinyvla.errors import UserError


@app("deploy")
def main(cfg: DictConfig) -> None:
    from envs.feature_names import trained_feature_names
    from envs.so101.twin import SCENE, wire_episodes
    from robot_io.arms import make_arm, needs_twin, with_twin_scene
    from robot_io.deployment import Deployment, Episode, Printer, cameras_of, load_runner, real_episodes
    from robot_io.live_view import LiveView
    from robot_io.person_gate import load_person_gate, watch_for_people
    from robot_io.recording import Recorder
    from robot_io.safety import SafetyLayer
    from robot_io.takeover import connect_operator
    from robot_io.twin import TwinSettings, start_twin

    run_dir, robot = Path(cfg.run_dir), as_dict(cfg.robot)
    if (run_dir / "config.yaml").exists():
        raise UserError(f"{run_dir} already holds a run; choose another run_dir")
    layer = SafetyLayer(as_dict(cfg.safety))
    runner = load_runner(cfg.checkpoint, cfg.device, cfg.server, **as_dict(cfg.runner))
    cameras = cameras_of(runner)
    with contextlib.ExitStack() as stack:
        if needs_twin(robot):
            robot = with_twin_scene(robot, SCENE, cameras)
            twin = stack.enter_context(start_twin(TwinSettings.from_config(robot, cfg.seed)))
            told = wire_episodes(as_dict(cfg.env), cfg.episodes, cfg.seed, layer.limits.rate_hz, twin)
            episodes = [Episode(**episode) for episode in told]
        else:
            twin, episodes = None, real_episodes(cfg.instruction, cfg.episodes, cfg.seconds, cfg.start_pose, cfg.seed)
        arm, trained = make_arm(robot, twin), trained_feature_names(cfg.checkpoint)
        person = stack.enter_context(connect_operator(as_dict(cfg.takeover), layer.joints, layer.emergency_stop))
        gate = load_person_gate(as_dict(cfg.person_gate), layer.limits, twin is not None) or cfg.person_detector
        camera = cfg.person_gate.camera or next(iter(cameras))
        people = stack.enter_context(watch_for_people(gate, camera, layer.limits))
        printer = Printer(layer.joints, poses=cfg.dry_run)
        run = Deployment(arm, runner, layer, [printer], person, cfg.approach_speed, cfg.dry_run, trained, people)
        if cfg.display:
            run.observers.append(stack.enter_context(LiveView(layer.joints)))
        if cfg.record:
            recording = Recorder(run_dir / "recording", layer.joints, cameras, layer.limits.rate_hz, arm.name)
            run.observers.append(stack.enter_context(recording))
        run_dir.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(cfg, run_dir / "config.yaml")
        run.run(episodes, run_dir)
    print(run.describe())
    print(run_dir / "deploy.json")


if __name__ == "__main__":
    main()
