"""Evaluate a policy in closed loop: python evaluate.py checkpoint=outputs/<run> env=metaworld env.tasks=[reach-v3]."""

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from configs.app import app
from configs.composing import as_dict


@app("evaluate")
def main(cfg: DictConfig) -> None:
    from envs.report import describe, write_report

    from envs.evaluation import evaluate

    run_dir = Path(cfg.run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(cfg, run_dir / "config.yaml")
    result = evaluate(
        Path(cfg.checkpoint),
        as_dict(cfg.env),
        cfg.episodes,
        seed=cfg.seed,
        workers=cfg.workers,
        device=cfg.device,
        wrong_instructions=cfg.wrong_instructions,
        run_dir=run_dir,
        videos=cfg.videos,
    )
    print(describe(result))
    print(write_report(run_dir))


if __name__ == "__main__":
    main()
