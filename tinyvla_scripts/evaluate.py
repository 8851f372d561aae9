"""Evaluate a policy in closed loop, or beside recordings: python evaluate.py checkpoint=outputs/<run> env=metaworld."""

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from configs.app import app
from configs.composing import as_dict, decode
from tinyvla.errors import UserError
from tinyvla.files import alone_in, write_whole


@app("evaluate")
def main(cfg: DictConfig) -> None:
    from envs import decode_env, evaluate
    from envs.evaluation import EvaluationOptions
    from envs.report import describe, write_report
    from envs.shifts import with_shift
    from envs.workers import clear_disk_errors

    run_dir, settings = Path(cfg.run_dir), OmegaConf.to_yaml(cfg)
    check_run_dir(run_dir, settings)
    if cfg.dataset.root:
        compare_with_recordings(cfg, run_dir, settings)
        return
    env_cfg = with_shift(decode_env(as_dict(cfg.env)), cfg.shift, cfg.severity)
    options = EvaluationOptions.from_section(as_dict(cfg))
    with alone_in(run_dir, wait=False), clear_disk_errors():
        result = evaluate(cfg.checkpoint, env_cfg, options, run_dir)
        print(describe(result))
        write_whole(run_dir / "config.yaml", settings)
        print(write_report(run_dir))


def compare_with_recordings(cfg: DictConfig, run_dir: Path, settings: str) -> None:
    """Compare a policy's actions with the recorded ones of a dataset, where no simulator has its scene."""
    from envs.report import describe_offline, write_offline_report
    from policies.data import DatasetConfig, find_part
    from policies.offline_evaluation import OfflineOptions, evaluate_offline

    if unused := [name for name in ("shift", "instruction", "wrong_instructions") if cfg[name]]:
        raise UserError(f"{unused[0]} is for episodes in a simulator; leave it out, or leave out dataset.root")
    dataset, options = decode(DatasetConfig, cfg.dataset), OfflineOptions(device=cfg.device, runner=as_dict(cfg.runner))
    with alone_in(run_dir, wait=False):
        root = find_part(dataset, dataset.roots, Path(cfg.data_dir))
        print(describe_offline(evaluate_offline(cfg.checkpoint, root, options, run_dir)))
        write_whole(run_dir / "config.yaml", settings)
        print(write_offline_report(run_dir))


def check_run_dir(run_dir: Path, settings: str) -> None:
    """Raise UserError if a folder holds a run, unless it is this evaluation, killed before it wrote its report."""
    file = run_dir / "config.yaml"
    if file.exists() and ((run_dir / "report.html").exists() or file.read_bytes() != settings.encode()):
        raise UserError(f"{run_dir} already holds a run; choose another run_dir")


if __name__ == "__main__":
    main()
