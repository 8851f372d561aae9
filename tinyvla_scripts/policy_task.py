"""Training of a policy by train.py, in one process or several."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from configs.composing import as_dict, decode

if TYPE_CHECKING:
    from envs.contract import EnvConfig
    from policies.training import RunSettings


def train_policy(cfg: DictConfig) -> None:
    """Check the settings of a policy's run, start its processes, and run it."""
    from envs import decode_env, evaluation
    from envs.shifts import with_randomisation
    from policies.training import check_settings, decode_run
    from tinyvla.training.cpu_processes import count_processes, cpu_processes, share_batch

    settings, env = decode_run(as_dict(cfg)), decode_env(as_dict(cfg.env))
    check_settings(settings)  # before anything is written
    demos_env = with_randomisation(env, cfg.randomise)
    evaluation.check_episodes(env, cfg.eval.episodes)
    in_sweep = HydraConfig.get().mode == RunMode.MULTIRUN  # whose jobs have no command line of their own
    processes = 1 if in_sweep else count_processes(settings.trainer, cfg.device)
    with cpu_processes(processes, [*sys.argv[1:], f"run_dir={cfg.run_dir}"]):
        settings.trainer = share_batch(settings.trainer)
        run_policy(cfg, settings, env, demos_env)


def run_policy(cfg: DictConfig, settings: "RunSettings", env: "EnvConfig", demos_env: "EnvConfig") -> None:
    """Collect missing demonstrations, train a policy, evaluate it and write the report.

    A policy of a person's own recordings, whose scene no simulator has, is compared with held-out ones.
    """
    from envs import evaluation, resolve_tasks
    from envs.demos import ensure_dataset
    from envs.launcher import LauncherConfig
    from envs.report import describe, describe_offline, run_videos, write_offline_report, write_report
    from policies.offline_evaluation import OfflineOptions, describe_held_out, evaluate_offline, offline_validator
    from policies.training import find_dataset, hold_out_episodes, train, warn_of_frozen_networks
    from tinyvla.training import Tracker, alone_in_run, device_of, make_accelerator, on_first_process, open_run

    accelerator = make_accelerator(cfg.device, settings.trainer.bf16)
    launcher, device = decode(LauncherConfig, cfg.launcher), device_of(accelerator)
    options = evaluation.EvaluationOptions.from_section(as_dict(cfg.eval), launcher=launcher, device=device)
    with alone_in_run(accelerator, settings.run_dir):
        on_first_process(accelerator, lambda: open_run(cfg))
        if warning := warn_of_frozen_networks(settings):
            accelerator.print(f"warning: {warning}")
        demos = (demos_env, resolve_tasks(env), cfg.episodes, cfg.seed, settings.data_dir, cfg.workers, launcher)
        dataset = on_first_process(accelerator, lambda: find_dataset(settings, lambda: ensure_dataset(*demos)))
        recordings = hold_out_episodes(settings, dataset, env.cameras)
        if recordings:
            accelerator.print(describe_held_out(settings.held_out))
        calibration, validate_episodes = settings.dataset.calibration, settings.trainer.validate_episodes
        comparison = OfflineOptions(device=device, calibration=Path(calibration) if calibration else None)
        with Tracker(settings.run_dir, as_dict(cfg), enabled=accelerator.is_main_process) as tracker:
            if recordings:
                validate = offline_validator(recordings, settings.held_out, comparison) if validate_episodes else None
            else:
                validate = evaluation.validator(env, options, validate_episodes)
            policy = train(settings, dataset, accelerator, tracker, validate)
            if options.episodes == 0:
                accelerator.print(policy)
            if options.episodes == 0 or not accelerator.is_main_process:
                return
            if recordings:
                result = evaluate_offline(policy, recordings, comparison, settings.run_dir)
            else:
                result = evaluation.evaluate(policy, env, options, settings.run_dir)
            tracker.log_result(result, run_videos(settings.run_dir), policy)
        print(describe_offline(result) if recordings else describe(result))
        print(write_offline_report(settings.run_dir) if recordings else write_report(settings.run_dir))
