"""Collect demonstrations, train a policy, evaluate it and report: python train.py policy=tinyvla env=metaworld."""

from omegaconf import DictConfig

from configs.app import app
from configs.composing import load_config


@app("train")
def main(cfg: DictConfig) -> None:
    from accelerate import PartialState

    from tinyvla.training import Stopped, find_run
    from tinyvla_scripts.policy_task import train_policy
    from tinyvla_scripts.vision_task import train_vision_task

    cfg = find_run(cfg, load_config("train"))
    try:
        (train_policy if cfg.task.name == "policy" else train_vision_task)(cfg)
    except Stopped:
        if PartialState().is_main_process:
            print(f"saved; go on with: python train.py run_dir={cfg.run_dir} resume=true")
        raise


if __name__ == "__main__":
    main()
