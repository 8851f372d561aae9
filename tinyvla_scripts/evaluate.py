"""Evaluate a policy in closed loop: python evaluate.py checkpoint=outputs/<run> env=metaworld env.tasks=[reach-v3]."""

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from configs.app import app
from configs.composing import as_dict
from tinyvla.errors import UserError


@app("evaluate")
def main(cfg: DictConfig) -> None:
    from envs import decode_env, evaluate
    from envs.evaluation import EvaluationOptions
    from envs.report import describe, write_report
    from envs.shifts import with_shift

    run_dir = Path(cfg.run_dir)
    if (run_dir / "config.yaml").exists():
        raise UserError(f"{run_dir} already holds a run; choose another run_dir")
    env_cfg = with_shift(decode_env(as_dict(cfg.env)), cfg.shift, cfg.severity)
    result = evaluate(cfg.checkpoint, env_cfg, EvaluationOptions.from_section(as_dict(cfg)), run_dir)
    OmegaConf.save(cfg, run_dir / "config.yaml")
    print(describe(result))
    print(write_report(run_dir))


if __name__ == "__main__":
    main()
