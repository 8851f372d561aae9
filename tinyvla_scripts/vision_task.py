"""Training of a vision model by train.py: `task=perception/<name>`."""

from functools import partial
from pathlib import Path

from omegaconf import DictConfig

from configs.composing import as_dict, decode
from envs.report.frontend_page import describe_frontend, write_frontend_report
from envs.scenes import open_image_splits
from policies.model_card import write_frontend_card
from tinyvla.frontends.training import decode_task, train_vision_model
from tinyvla.training import TrainerConfig, alone_in_run, make_accelerator, on_first_process, open_run


def train_vision_task(cfg: DictConfig) -> None:
    """Generate missing images, train, test, and write the report. An existing run is continued."""
    decode_task(as_dict(cfg.task))  # before anything is written
    trainer = decode(TrainerConfig, cfg.trainer)
    accelerator = make_accelerator(cfg.device, trainer.bf16)
    with alone_in_run(accelerator, Path(cfg.run_dir)):
        cfg = on_first_process(accelerator, lambda: open_run(cfg))
        open_images = partial(open_image_splits, seed=cfg.seed, data_dir=Path(cfg.data_dir), workers=cfg.workers)
        metrics = train_vision_model(as_dict(cfg), accelerator, open_images, write_frontend_card)
        if metrics:
            print(describe_frontend(metrics))
            print(write_frontend_report(Path(cfg.run_dir)))
