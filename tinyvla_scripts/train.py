"""Collect what is missing, train a policy, evaluate it, report: python train.py policy=tinyvla env=metaworld."""

from pathlib import Path

from omegaconf import DictConfig

from configs.app import app
from configs.composing import as_dict, decode, load_config


@app("train")
def main(cfg: DictConfig) -> None:
    from envs import decode_env, resolve_tasks
    from envs.demos import ensure_dataset
    from envs.evaluation import EvaluationOptions, check_episodes, evaluate, validator
    from envs.frontends import train_frontend
    from envs.launcher import LauncherConfig
    from envs.report import describe, write_report
    from envs.shifts import with_randomisation
    from policies.data import find_dataset
    from policies.training import check_settings, train
    from tinyvla.training import Tracker, find_run, make_accelerator, on_first_process, open_run
    from tinyvla.training.device import device_of

    cfg = find_run(cfg, load_config("train"))
    if cfg.task.name != "policy":
        train_frontend(cfg)
        return
    check_settings(cfg)  # mistakes come up before anything is written
    with_randomisation(decode_env(as_dict(cfg.env)), cfg.randomise)
    check_episodes(decode_env(as_dict(cfg.env)), cfg.eval.episodes)
    accelerator = make_accelerator(cfg.device, cfg.trainer.bf16)
    cfg = on_first_process(accelerator, lambda: open_run(cfg))
    env_cfg, run_dir, launcher = decode_env(as_dict(cfg.env)), Path(cfg.run_dir), decode(LauncherConfig, cfg.launcher)

    def collected() -> Path:
        demos_cfg = with_randomisation(env_cfg, cfg.randomise)
        tasks, data_dir = resolve_tasks(env_cfg), Path(cfg.data_dir)
        return ensure_dataset(demos_cfg, tasks, cfg.episodes, cfg.seed, data_dir, cfg.workers, launcher)

    dataset = on_first_process(accelerator, lambda: find_dataset(cfg, collected))
    options = EvaluationOptions.from_section(as_dict(cfg.eval), launcher=launcher, device=device_of(accelerator))
    with Tracker(run_dir, as_dict(cfg), enabled=accelerator.is_main_process) as tracker:
        validate = validator(env_cfg, options, cfg.trainer.validate_episodes)
        policy = train(cfg, dataset, accelerator, tracker, validate)
        if not accelerator.is_main_process:
            return
        if cfg.eval.episodes == 0:
            print(policy)
            return
        result = evaluate(policy, env_cfg, options, run_dir)
        tracker.log_result(result, sorted((run_dir / "videos").glob("*.mp4")), policy)
    print(describe(result))
    print(write_report(run_dir))


if __name__ == "__main__":
    main()
