"""Evaluate a policy in closed loop, or beside recordings: python evaluate.py checkpoint=outputs/<run> env=metaworld."""

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from configs.app import app
from configs.composing import as_dict
from tinyvla.errors import UserError
from tinyvla.files import alone_in, write_whole


@app("evaluate")
def main(cfg: DictConfig) -> None:
    from envs import evaluate
    from envs.evaluation import EvaluationOptions, decode_env_of_policy
    from envs.report import describe, write_report
    from envs.shifts import with_shift
    from envs.workers import clear_disk_errors
    from tinyvla_scripts.offline_task import evaluate_on_recordings

    run_dir, settings = Path(cfg.run_dir), OmegaConf.to_yaml(cfg)
    check_run_dir(run_dir, settings)
    if cfg.dataset.root:
        evaluate_on_recordings(cfg, settings)
        return
    env_cfg = with_shift(decode_env_of_policy(as_dict(cfg.env), cfg.checkpoint), cfg.shift, cfg.severity)
    options = EvaluationOptions.from_section(as_dict(cfg))
    with alone_in(run_dir, wait=False), clear_disk_errors():
        result = evaluate(cfg.checkpoint, env_cfg, options, run_dir)
        print(describe(result))
        write_whole(run_dir / "config.yaml", settings)
        print(write_report(run_dir))


def check_run_dir(run_dir: Path, settings: str) -> None:
    """Raise UserError if a folder holds a run, unless it is this evaluation, killed before it wrote its report."""
    file = run_dir / "config.yaml"
    if file.exists() and ((run_dir / "report.html").exists() or file.read_bytes() != settings.encode()):
        raise UserError(f"{run_dir} already holds a run; choose another run_dir")


if __name__ == "__main__":
    main()
