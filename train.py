"""Collect what is missing, train a policy, evaluate it, report: python train.py policy=tinyvla env=metaworld."""

from pathlib import Path

from omegaconf import DictConfig

from configs.app import app
from configs.composing import as_dict, load_config


@app("train")
def main(cfg: DictConfig) -> None:
    from envs import resolve_tasks
    from envs.demos import ensure_dataset
    from envs.evaluation import evaluate, evaluation_jobs
    from envs.report import describe, write_report
    from policies import check_policy
    from policies.training import Tracker, find_run, make_accelerator, on_first_process, open_run, train

    check_policy(as_dict(cfg.policy), cfg.trainer.steps)  # mistakes come up before anything is written
    evaluation_jobs(resolve_tasks(as_dict(cfg.env)), cfg.eval.episodes)
    cfg = find_run(cfg, load_config("train"))
    accelerator = make_accelerator(cfg.device, cfg.trainer.bf16)
    cfg = on_first_process(accelerator, lambda: open_run(cfg))
    env_cfg, run_dir, device = as_dict(cfg.env), Path(cfg.run_dir), str(accelerator.device)
    dataset = on_first_process(
        accelerator,
        lambda: ensure_dataset(
            env_cfg, resolve_tasks(env_cfg), cfg.episodes, cfg.seed, Path(cfg.data_dir), cfg.workers
        ),
    )
    options = {"workers": cfg.eval.workers, "device": device}

    def validate(policy: Path) -> dict[str, float]:
        result = evaluate(policy, env_cfg, cfg.trainer.validate_episodes, split="validation", **options)
        return {"success_rate": result["success_rate"]} | {
            f"success_rate/{task}": figures["success_rate"] for task, figures in result["tasks"].items()
        }

    with Tracker(run_dir, as_dict(cfg), enabled=accelerator.is_main_process) as tracker:
        policy = train(cfg, dataset, accelerator, tracker, validate if cfg.trainer.validate_episodes else None)
        if not accelerator.is_main_process:
            return
        result = evaluate(
            policy,
            env_cfg,
            cfg.eval.episodes,
            wrong_instructions=cfg.eval.wrong_instructions,
            run_dir=run_dir,
            videos=cfg.eval.videos,
            **options,
        )
        tracker.log_result(result, sorted((run_dir / "videos").glob("*.mp4")), policy)
    print(describe(result))
    print(write_report(run_dir))


if __name__ == "__main__":
    main()
