"""Training a front-end on generated pictures: train.py task=perception/<name>."""

import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import imageio.v3 as imageio
import torch
from omegaconf import DictConfig, OmegaConf

from policies import find_checkpoint
from policies.model_card import write_frontend_card
from tinyvla.decoding import decode_section
from tinyvla.files import write_whole
from tinyvla.frontends.registry import make_trainable
from tinyvla.training import Tracker, TrainerConfig, fit, make_accelerator, on_first_process, open_run
from tinyvla.training.device import device_of

from .report.frontend_page import IMAGES, describe_frontend, write_frontend_report
from .scenes import open_labelled_images

SPLITS = ("train", "validation", "test")


def train_frontend(cfg: DictConfig) -> None:
    """Generate what pictures are missing, train, test, and write the page; a run that exists is gone on with."""
    task: Any = OmegaConf.to_container(cfg.task, resolve=True)
    run_dir = Path(cfg.run_dir)
    accelerator = make_accelerator(cfg.device, cfg.trainer.bf16)
    cfg = on_first_process(accelerator, lambda: open_run(cfg))
    with accelerator.main_process_first():  # which draws them; the others map the same files
        pictures = open_pictures(task, cfg.seed, Path(cfg.data_dir), cfg.workers)
    config: Any = OmegaConf.to_container(cfg, resolve=True)
    part = (accelerator.process_index, accelerator.num_processes)
    options = task | {"trainer": config["trainer"], "device": device_of(accelerator)}
    trainable = make_trainable(options, pictures, cfg.seed, part)
    with Tracker(run_dir, config, enabled=accelerator.is_main_process) as tracker:
        trainer = decode_section(TrainerConfig, config["trainer"], "trainer")
        fit(trainable, trainer, run_dir, cfg.seed, accelerator, tracker, lambda _: trainable.evaluate())
        if not accelerator.is_main_process:
            return
        best = find_checkpoint(run_dir)
        trainable.restore(best)
        result = {"kind": "frontend", "task": task["name"], "checkpoint": str(best), "machine": platform.machine()}
        result |= test(trainable)
        write_whole(run_dir / "eval.json", json.dumps(result, indent=1))
        write_frontend_card(best, config, result)
        for caption, picture in trainable.examples().items():
            write_picture(run_dir / IMAGES / f"{caption.replace(' ', '-')}.png", picture)
        tracker.log_result({"score": result["score"]}, [], best)
    print(describe_frontend(result))
    print(write_frontend_report(run_dir))


@torch.inference_mode()
def test(trainable: Any) -> dict[str, Any]:
    """Figures of a trained model on the test pictures, as eval.json has them."""
    figures = {name: figure._asdict() for name, figure in trainable.test().items()}
    return {"measure": trainable.score, "score": next(iter(figures.values()))["value"], "figures": figures}


def open_pictures(task: Mapping[str, Any], seed: int, data_dir: Path, workers: int | str) -> dict[str, Any]:
    """Generated pictures of every split, as the `scenes` section of a task asks for them; null asks for none."""
    wanted = task["scenes"]
    if wanted is None:
        return {}
    return {
        split: open_labelled_images(
            wanted["kind"], split, wanted[split], wanted["image_size"], seed, data_dir=data_dir, workers=workers
        )
        for split in SPLITS
    }


def write_picture(path: Path, picture: Any) -> None:
    """A picture as PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    imageio.imwrite(path, picture)
